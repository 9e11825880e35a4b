"""The secrets and certificates of a deployment: made once, closed, and mounted only where they are needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic_settings import BaseSettings

from services.fetcher.settings import FetcherSettings
from services.fetcher.sources.oci_login import AuthFile
from services.trainer.settings import TrainerSettings
from tests.containers import ALL, SETTINGS, environment
from tests.deployment import DEPLOY, SERVICES, compose

SECRETS_OF_SOURCES = ("fetcher_hf_token", "fetcher_s3_access_key", "fetcher_s3_secret_key", "fetcher_oci_auth")
SECRETS_OF_WORKERS = ("trainer_remote_webhooks", "trainer_ray_token")
NO_CREDENTIALS = '{"auths": {}}'


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
