"""The compose files: closed where they should be, in the right order, and naming nothing that does not exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic_settings import BaseSettings

from services.common.probe import ProbeSettings
from services.fetcher.settings import FetcherSettings
from services.fetcher.sources.oci_login import AuthFile
from services.inference.jobs.settings import JobsSettings
from services.inference.settings import InferenceSettings
from services.monitoring.settings import MonitoringSettings
from services.registry.bucket import BucketSettings
from services.registry.settings import RegistrySettings
from services.registry.validation.settings import ValidatorSettings
from services.trainer.settings import TrainerSettings
from tests.deployment import DEPLOY, ROOT, SERVICES, TARGETS, ancestry, compose, stages, variables

SETTINGS: dict[str, tuple[type[BaseSettings], ...]] = {
    "registry": (RegistrySettings, ProbeSettings),
    "validator": (ValidatorSettings, ProbeSettings),
    "inference": (InferenceSettings, ProbeSettings),
    "jobs": (JobsSettings, ProbeSettings),
    "monitoring": (MonitoringSettings, ProbeSettings),
    "fetcher": (FetcherSettings, ProbeSettings),
    "trainer": (TrainerSettings, ProbeSettings),
    "bucket": (BucketSettings, RegistrySettings),
    "migrate-registry": (RegistrySettings,),
    "migrate-jobs": (JobsSettings,),
    "migrate-monitoring": (MonitoringSettings,),
    "migrate-fetcher": (FetcherSettings,),
    "migrate-trainer": (TrainerSettings,),
}
READ_ELSEWHERE = {"PENSTOCK_SECRETS_DIR"}
SECRETS_OF_SOURCES = ("fetcher_hf_token", "fetcher_s3_access_key", "fetcher_s3_secret_key", "fetcher_oci_auth")
SECRETS_OF_WORKERS = ("trainer_remote_webhooks", "trainer_ray_token")
NO_CREDENTIALS = '{"auths": {}}'
JOBS = ("bucket", "migrate-registry", "migrate-monitoring", "migrate-jobs", "migrate-fetcher", "migrate-trainer")
ALL = compose()["services"]


def known(name: str) -> set[str]:
    """Every variable that the service reads."""
    fields = {field for settings in SETTINGS[name] for field in settings.model_fields}
    return {f"PENSTOCK_{field.upper()}" for field in fields} | READ_ELSEWHERE


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_container_is_closed(name: str) -> None:
    service = ALL[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("cap_add") is None


def test_no_service_is_told_to_listen_without_keys() -> None:
    for file in ("docker-compose.yml", "deploy/compose.tls.yml"):
        assert [
            name for name, service in compose(file)["services"].items() if "PENSTOCK_INSECURE" in environment(service)
        ] == []
    assert all(
        "PENSTOCK_INSECURE=" not in rest for target in TARGETS for word, rest in ancestry(target) if word == "ENV"
    )


@pytest.mark.parametrize("name", [name for name, service in ALL.items() if "build" not in service])
def test_an_image_of_others_runs_as_a_user_without_rights(name: str) -> None:
    assert str(ALL[name].get("user", "root")).partition(":")[0] not in ("root", "0")


def test_the_s3_servers_volume_is_its_users_before_it_starts() -> None:
    """A volume takes its owner from the first folder that it is mounted on, and in our images that one is 10001's."""
    first, server = ALL["s3-volume"], ALL["s3"]
    assert server["depends_on"] == {"s3-volume": {"condition": "service_completed_successfully"}}
    assert (first["volumes"], server["volumes"]) == (["s3:/var/lib/penstock"], ["s3:/data"])
    image = dict(ancestry(first["build"]["target"]))
    assert image["USER"] == server["user"]
    assert any("--owner penstock" in rest and "/var/lib/penstock" in rest for _, rest in ancestry("runtime"))


@pytest.mark.parametrize("name", ["postgres", "s3", "cache", "validator", *JOBS])
def test_what_holds_data_or_opens_models_cannot_be_reached_from_outside_nor_reach_it(name: str) -> None:
    networks = compose()["networks"]
    assert "ports" not in ALL[name]
    assert all(networks[each]["internal"] for each in ALL[name]["networks"])


def test_the_cache_is_an_option_that_only_inference_speaks_with() -> None:
    """It has no password, so its network is its door; and it is never waited for."""
    assert ALL["cache"]["profiles"] == ["cache"]
    assert [name for name, service in ALL.items() if "cache" in service.get("networks", ())] == ["inference", "cache"]
    assert "cache" not in ALL["inference"]["depends_on"]
    assert ALL["inference"]["environment"]["PENSTOCK_RESPONSE_CACHE_URL"] == ""


@pytest.mark.parametrize("name", [name for name, service in ALL.items() if "ports" in service])
def test_ports_are_opened_on_loopback_unless_told_otherwise(name: str) -> None:
    assert [port for port in ALL[name]["ports"] if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_when_its_jobs_are_done_and_has_limits(name: str) -> None:
    service = ALL[name]
    conditions = {each: how["condition"] for each, how in service["depends_on"].items()}
    for each, condition in conditions.items():
        assert condition == ("service_completed_successfully" if each in JOBS else "service_healthy")
    assert f"migrate-{'registry' if name == 'validator' else name}" in conditions or name == "inference"
    limits = service["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= limits.keys()
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", ["inference", "jobs"])
def test_the_models_that_may_be_in_memory_fit_into_the_containers(name: str) -> None:
    """By the rule of docs/deployment.md. No image of ours that predicts has TensorFlow, so its budget is never used."""
    given = ALL[name]["environment"]
    budgets = [int(given[f"PENSTOCK_{each}_BUDGET_BYTES"]) for each in ("SESSION", "TRANSFORMERS")]
    limit = ALL[name]["deploy"]["resources"]["limits"]["memory"]
    assert sum(budgets) + 2**29 <= int(limit.removesuffix("g")) * 2**30
    assert "tensorflow" not in (ROOT / f"requirements/{name}.txt").read_text()


def test_what_depends_on_the_place_can_be_said_without_editing_the_file() -> None:
    passed = {"PENSTOCK_OTLP_ENDPOINT": ["inference", "jobs", "registry", "monitoring", "fetcher"]}
    passed |= {"PENSTOCK_OLLAMA_URL": ["inference", "jobs"], "PENSTOCK_JOB_INPUT_ROOTS": ["jobs"]}
    for variable, names in passed.items():
        assert variable in variables()
        assert [name for name in names if variable not in ALL[name]["environment"]] == []


def test_all_that_training_can_be_told_is_told_in_env_but_for_secrets() -> None:
    fields = {
        name: field for name, field in TrainerSettings.model_fields.items() if name.startswith(("trainer_", "dataset_"))
    }
    secret = {name for name, field in fields.items() if "SecretStr" in str(field.annotation)}
    given = ALL["trainer"]["environment"]
    passed = {name for name in fields if given.get(f"PENSTOCK_{name.upper()}") == ""}
    assert passed == fields.keys() - secret
    assert {f"PENSTOCK_{name.upper()}" for name in passed} <= variables().keys()


def test_all_that_fetching_can_be_told_is_told_in_env_but_for_secrets() -> None:
    fields = {name: field for name, field in FetcherSettings.model_fields.items() if name.startswith("fetcher_")}
    secret = {name for name, field in fields.items() if "SecretStr" in str(field.annotation)} | {
        "fetcher_oci_auth_file"
    }
    given = ALL["fetcher"]["environment"]
    passed = {name for name in fields if given.get(f"PENSTOCK_{name.upper()}") == ""}
    assert passed == fields.keys() - secret
    assert {f"PENSTOCK_{name.upper()}" for name in passed} <= variables().keys()


def test_a_variable_that_is_called_like_a_setting_is_that_setting() -> None:
    """Whoever says it in `.env` means the service, and a service that runs beside that file reads it there."""
    settings = set().union(*map(known, SETTINGS))
    text = (ROOT / "docker-compose.yml").read_text()
    for variable in settings & variables().keys():
        assert re.findall(r"(\w+): *\"?\$\{" + variable + ":-", text) == [variable] * text.count("${" + variable + ":-")


def test_no_secret_is_a_variable() -> None:
    """Variables are shown by `docker inspect`, and inherited by all that a service starts."""
    secret = {
        f"PENSTOCK_{name.upper()}"
        for classes in SETTINGS.values()
        for settings in classes
        for name, field in settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }
    assert {"PENSTOCK_DATABASE_URL", "PENSTOCK_FETCHER_HF_TOKEN"} <= secret
    secret -= {"PENSTOCK_RESPONSE_CACHE_URL"}  # the cache here has no password; one elsewhere has its URL as a file
    assert {name: environment(service) & secret for name, service in ALL.items() if environment(service) & secret} == {}


def settings_of_a_container(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> BaseSettings:
    """Read what a container would be told by the compose file and this folder of secrets."""
    service = ALL[name]
    mounted = secrets.with_name("mounted")
    mounted.mkdir(exist_ok=True)
    for each in service["secrets"]:
        source, target = (each, each) if isinstance(each, str) else (each["source"], each["target"])
        (mounted / target).write_text((secrets / source).read_text())
    for variable in [each for each in os.environ if each.startswith("PENSTOCK_")]:
        monkeypatch.delenv(variable)
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, str(value).replace("/run/secrets", str(mounted)))
    monkeypatch.chdir(mounted)
    return SETTINGS[name][0].model_validate({})


def test_as_made_the_fetcher_has_what_is_built_in_and_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_secrets(tmp_path / "secrets")
    settings = settings_of_a_container("fetcher", tmp_path / "secrets", monkeypatch)
    said = {name: value for name, value in settings if name.startswith("fetcher_")}
    oci_auth = said.pop("fetcher_oci_auth_file")
    assert said == {name: FetcherSettings.model_fields[name].get_default() for name in said}
    assert AuthFile(oci_auth).find("registry.example") is None


def test_the_fetcher_has_the_credentials_that_were_written_into_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_secrets(tmp_path / "secrets")
    for name in ("hf_token", "s3_access_key", "s3_secret_key"):
        (tmp_path / f"secrets/fetcher_{name}").write_text(f"the {name}\n")
    (tmp_path / "secrets/fetcher_oci_auth").write_text('{"auths": {"registry.example": {"auth": "YTpi"}}}')
    settings = settings_of_a_container("fetcher", tmp_path / "secrets", monkeypatch)
    assert isinstance(settings, FetcherSettings)
    secrets = (settings.fetcher_hf_token, settings.fetcher_s3_access_key, settings.fetcher_s3_secret_key)
    told = [secret.get_secret_value() for secret in secrets if secret is not None]
    assert told == ["the hf_token", "the s3_access_key", "the s3_secret_key"]
    assert AuthFile(settings.fetcher_oci_auth_file).find("registry.example") is not None


def test_the_trainer_calls_whom_its_file_names_and_nobody_by_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets"
    make_secrets(secrets)
    empty = settings_of_a_container("trainer", secrets, monkeypatch)
    assert isinstance(empty, TrainerSettings)
    assert (empty.trainer_remote_webhooks, empty.trainer_ray_token) == (None, None)
    (secrets / "trainer_remote_webhooks").write_text('{"gpu": {"url": "https://gpu.example/hook", "labels": ["gpu"]}}')
    (secrets / "trainer_ray_token").write_text("the token\n")
    told = settings_of_a_container("trainer", secrets, monkeypatch)
    assert isinstance(told, TrainerSettings)
    assert told.trainer_remote_webhooks is not None
    assert told.trainer_ray_token is not None
    assert '"gpu"' in told.trainer_remote_webhooks.get_secret_value()
    assert told.trainer_ray_token.get_secret_value() == "the token"


def test_a_container_may_drain_for_longer_than_its_service_does() -> None:
    for name in SERVICES:
        grace_s = int(ALL[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s * 1000 > SETTINGS[name][0].model_fields["drain_grace_ms"].default


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_variable_and_every_secret_is_a_setting_of_the_service_that_gets_it(name: str) -> None:
    service = ALL[name]
    overlay = compose("deploy/compose.tls.yml")["services"].get(name, {})
    image = {
        word.partition("=")[0]
        for step, rest in ancestry(service["build"]["target"])
        if step == "ENV"
        for word in rest.split()
    }
    given = {*service["environment"], *overlay.get("environment", {}), *image}
    assert {each for each in given if each.startswith("PENSTOCK_")} - known(name) == set()
    targets = {secret["target"].upper() for secret in service["secrets"] if isinstance(secret, dict)}
    assert targets - known(name) == set()


def test_the_variables_of_the_command_are_ones_that_it_reads() -> None:
    source = "".join(path.read_text() for path in (ROOT / "sdk/python/src/penstock").rglob("*.py"))
    given = {*ALL["cli"]["environment"], *compose("deploy/compose.tls.yml")["services"]["cli"]["environment"]}
    missing = {name for name in given if name not in source}
    # These two are put together from a name and a prefix.
    assert missing <= {"PENSTOCK_CERT_FILE", "PENSTOCK_KEY_FILE"}


def test_every_volume_and_file_that_is_mounted_is_declared_or_there() -> None:
    for service in ALL.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose()["volumes"] or (ROOT / source).exists(), volume


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("inference", "SPOOL_DIR"),
        ("inference", "CACHE_DIR"),
        ("jobs", "SPOOL_DIR"),
        ("jobs", "CACHE_DIR"),
        ("jobs", "JOB_DIR"),
        ("validator", "VALIDATION_DIR"),
        ("registry", "UPLOAD_SPOOL_DIR"),
    ],
)
def test_what_is_large_or_must_last_is_kept_on_a_volume(name: str, folder: str) -> None:
    given = " ".join(rest for word, rest in ancestry(name) if word == "ENV")
    assert f"PENSTOCK_{folder}=/var/lib/penstock" in given
    assert any(volume.endswith(":/var/lib/penstock") for volume in ALL[name]["volumes"])


def test_the_database_keeps_its_files_on_a_volume() -> None:
    assert "postgres:/var/lib/postgresql" in ALL["postgres"]["volumes"]
    files = ALL["postgres"]["environment"]["PGDATA"]
    assert files.startswith("/var/lib/postgresql/")
    assert files != "/var/lib/postgresql/data", "images up to 17 mount a volume there that nobody keeps"


def test_the_example_of_env_shows_variables_that_exist_with_their_defaults() -> None:
    shown = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert {name: value for name, value in shown.items() if variables().get(name) != value} == {}
    assert not re.search(r"^\w+=", (ROOT / ".env.example").read_text(), re.MULTILINE), "copied, it changes nothing"


def test_the_version_of_the_images_is_that_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert variables()["PENSTOCK_VERSION"] == version
    assert ("ARG", f"VERSION={version}") in stages()["runtime"]


def test_the_s3_server_is_one_variable_with_its_version() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert text.count("minio/minio") == 1
    assert ":RELEASE." in variables()["PENSTOCK_S3_IMAGE"]


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run([DEPLOY / "make-secrets", folder], check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_the_secrets_are_made_once_closed_to_others_and_match_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = make_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for service in ("registry", "monitoring", "jobs", "fetcher", "trainer"):
        password = made[f"{service}_database_password"].strip()
        assert len(password) == 64
        assert made[f"{service}_database_url"].strip() == f"postgresql://{service}:{password}@postgres:5432/penstock"
    given = {"s3_access_key", *SECRETS_OF_SOURCES, *SECRETS_OF_WORKERS}
    passwords = [text for name, text in made.items() if name not in given and not name.endswith(("url", "token"))]
    assert len(set(passwords)) == len(passwords)
    assert compose()["secrets"].keys() == made.keys()
    # This one is a key of the suite's own: `penstock key create` prints it, and it goes into the file that waits.
    assert {made[f"{name}_token"] for name in ("inference", "monitoring", "jobs", "fetcher", "trainer")} == {""}
    assert {made[name] for name in SECRETS_OF_SOURCES} == {"", NO_CREDENTIALS}
    assert {made[name] for name in SECRETS_OF_WORKERS} == {""}
    written = {"inference_token": "pk_made", "fetcher_hf_token": "hf_made"}
    for name, text in written.items():
        (folder / name).write_text(text)
    assert make_secrets(folder) == {**made, **written}, "a second run changes nothing"


def make_certificates(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PENSTOCK_SECRETS": str(folder)}
    command = [str(DEPLOY / "make-certificates"), *names]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


@pytest.mark.slow
def test_certificates_are_made_for_their_names_behind_a_closed_door(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    make_certificates(folder, "models.example.com", "10.0.0.7")
    assert folder.stat().st_mode & 0o777 == 0o700, "the keys within are open to the users of containers"
    authority = x509.load_pem_x509_certificate((folder / "tls/ca.crt").read_bytes())
    assert (folder / "tls/ca.key").stat().st_mode & 0o077 == 0
    for name in (*SERVICES, "cli"):
        own = folder / "tls" / name
        made = x509.load_pem_x509_certificate((own / "tls.crt").read_bytes())
        made.verify_directly_issued_by(authority)
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(names.get_values_for_type(x509.DNSName)) == {name, "localhost", "models.example.com"}
        assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.0.0.7"]
        purposes = set(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        assert purposes == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        assert {path.stat().st_mode & 0o777 for path in own.iterdir()} == {0o444}


@pytest.mark.slow
def test_a_second_run_changes_no_certificate_and_says_whose_names_are_not_added(tmp_path: Path) -> None:
    make_certificates(tmp_path, "models.example.com")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert make_certificates(tmp_path).stderr == ""
    assert make_certificates(tmp_path, "models.example.com").stderr == ""
    said = make_certificates(tmp_path, "other.example.com").stderr
    assert {path: path.read_bytes() for path in before} == before
    assert said.count("without these names") == len(SERVICES) + 1
    shutil.rmtree(tmp_path / "tls/registry")
    said = make_certificates(tmp_path, "other.example.com").stderr
    assert said.count("without these names") == len(SERVICES)
    assert b"other.example.com" in (tmp_path / "tls/registry/names").read_bytes()


def test_secrets_are_mounted_where_they_are_needed_and_nowhere_else() -> None:
    holders: dict[str, set[str]] = {}
    for name, service in ALL.items():
        for secret in service.get("secrets", []):
            holders.setdefault(secret if isinstance(secret, str) else secret["source"], set()).add(name)
    assert holders["postgres_password"] == {"postgres"}
    assert holders["inference_token"] == {"inference"}
    assert holders["monitoring_token"] == {"monitoring"}
    assert all(holders[name] == {"fetcher"} for name in ("fetcher_token", "fetcher_secrets_key", *SECRETS_OF_SOURCES))
    assert all(holders[name] == {"trainer"} for name in SECRETS_OF_WORKERS)
    assert "inference" not in holders["s3_secret_key"] | holders["registry_database_url"]
    assert not any("PASSWORD" in key and "FILE" not in key for service in ALL.values() for key in environment(service))


def environment(service: Any) -> set[str]:
    return set(service.get("environment", {}))
