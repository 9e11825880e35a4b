"""A service as a process: how it begins, refuses to, and what it writes to its log."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from penstock import InvalidArgument
from services.common import flags
from services.common.settings import ServerSettings, Settings
from services.inference.clients import client_of
from services.inference.settings import InferenceSettings
from services.monitoring.settings import MonitoringSettings
from services.registry.settings import RegistrySettings

SERVICES = ("registry", "monitoring", "inference", "inference.jobs", "fetcher", "trainer")
ROOT = Path(__file__).resolve().parents[2]
ALONE = ("--port", "0", "--metrics-port", "0", "--inference-workers", "1")
"""Inference without a supervisor, which would start each worker six times before it passed its words on."""


def run(service: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a service's process where no setting is, but these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *arguments],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_argument_is_misuse(service: str, tmp_path: Path) -> None:
    done = run(service, "sevre", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: python -m services.{service}")


@pytest.mark.slow
@pytest.mark.parametrize("service", ["registry", "monitoring", "inference.jobs", "fetcher", "trainer"])
def test_a_missing_setting_is_named_and_no_value_is_shown(service: str, tmp_path: Path) -> None:
    done = run(service, folder=tmp_path, PENSTOCK_PORT="the-secret")
    assert done.returncode == 2
    assert "PENSTOCK_DATABASE_URL" in done.stderr
    assert "PENSTOCK_PORT" in done.stderr
    assert "the-secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_service_that_cannot_begin_says_why_in_one_line_of_json(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    done = run("inference", *ALONE, folder=tmp_path, PENSTOCK_KEYS_FILE="keys.json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["service"], last["event"], last["reason"]) == ("inference", "not started", "KEYS_UNREADABLE")


@pytest.mark.slow
def test_a_database_that_is_away_is_said(tmp_path: Path) -> None:
    done = run("monitoring", folder=tmp_path, PENSTOCK_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("not started", "DATABASE_UNAVAILABLE")


def _split(said: object) -> object:
    return said.split() if isinstance(said, str) else said


class Fields(Settings):
    """Settings of each kind."""

    port: int
    """Where to listen; 100 % of it."""
    insecure: bool = False
    """Whether not to care."""
    folder: Path | None = None
    """A folder."""
    names: tuple[str, ...] = ()
    """Some names."""
    words: Annotated[frozenset[str], NoDecode, BeforeValidator(_split)] = frozenset()
    """Some words."""
    token: SecretStr | None = None
    """A secret."""


def settings(*arguments: str, **more: Any) -> Fields:
    return Fields(**flags.parse("fields", arguments, Fields, commands=()).settings, **more)


def test_flags_go_before_the_environment_and_env_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("PENSTOCK_PORT=1\nPENSTOCK_FOLDER=from-env-file\nPENSTOCK_INSECURE=true\n")
    monkeypatch.setenv("PENSTOCK_PORT", "2")
    assert (settings().port, settings().folder, settings().insecure) == (2, Path("from-env-file"), True)
    said = settings("--port", "3", "--folder=here", "--no-insecure", "--names", '["a", "b"]', "--words", "a b")
    assert said.words == {"a", "b"}
    assert (said.port, said.folder, said.insecure, said.names) == (3, Path("here"), False, ("a", "b"))


def refused(*arguments: str, of: type[Settings] = Fields) -> str:
    with redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as end:
        flags.parse("fields", arguments, of, commands=())
    assert end.value.code == 2
    return said.getvalue()


@pytest.mark.parametrize("arguments", [("--token", "planted"), ("--token=planted",)])
def test_a_secret_as_a_flag_is_refused_and_not_repeated(arguments: tuple[str, ...]) -> None:
    said = refused(*arguments)
    assert "PENSTOCK_TOKEN" in said
    assert "planted" not in said


def test_a_flag_is_never_guessed() -> None:
    assert "unrecognized arguments" in refused("--insec")


@pytest.mark.parametrize("kind", [RegistrySettings, MonitoringSettings, InferenceSettings])
def test_every_setting_that_is_no_secret_is_in_the_help_with_its_meaning(kind: type[ServerSettings]) -> None:
    with redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        flags.parse("any", ["--help"], kind, commands=("migrate",))
    words = " ".join(shown.getvalue().split())
    for name, info in kind.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        named = re.search(rf"{flag}(?![\w-])", words)
        if "Secret" in str(info.annotation):
            assert not named
            assert "secret" in refused(flag, "x", of=kind)
        else:
            assert named
            assert info.description
            assert info.description.split()[0] in words


def test_a_key_in_plain_text_takes_a_word_of_its_own() -> None:
    """The one who lets a service listen without keys has not said that its key may travel, nor the other way round."""
    settings = InferenceSettings(registry_address="registry:50051", service_token=SecretStr("planted"), insecure=True)
    with pytest.raises(InvalidArgument) as caught:
        client_of(settings)
    assert caught.value.reason == "TOKEN_OVER_INSECURE_CHANNEL"
    client_of(settings.model_copy(update={"insecure": False, "insecure_token": True})).close()


@pytest.mark.slow
def test_an_open_address_needs_keys_or_the_word(tmp_path: Path) -> None:
    done = run("inference", "--host", "0.0.0.0", "--insecure-token", *ALONE, folder=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stderr.splitlines()[-1])["reason"] == "INSECURE_ADDRESS"
    half = ("--tls-cert-file", "cert.pem")  # so that it ends there as well, one step later
    done = run("inference", "--host", "0.0.0.0", "--insecure", *ALONE, *half, folder=tmp_path)
    assert json.loads(done.stderr.splitlines()[-1])["reason"] == "TLS_INCOMPLETE"
