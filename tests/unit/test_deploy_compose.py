"""The compose files: closed where they should be, in the right order, and naming nothing that does not exist."""

from __future__ import annotations

import re
import tomllib

import pytest

from services.fetcher.settings import FetcherSettings
from services.trainer.settings import TrainerSettings
from tests.containers import ALL, SETTINGS, environment
from tests.deployment import ROOT, SERVICES, TARGETS, ancestry, compose, stages, variables

READ_ELSEWHERE = {"PENSTOCK_SECRETS_DIR"}
JOBS = ("bucket", "migrate-registry", "migrate-monitoring", "migrate-jobs", "migrate-fetcher", "migrate-trainer")


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
