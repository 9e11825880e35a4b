"""The health check that runs inside a container, against the server kit; and secrets that come as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from services.common import probe
from services.common.errors import Unavailable
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.server import Server
from services.common.settings import ServerSettings
from services.fetcher.settings import FetcherSettings
from services.monitoring.settings import MonitoringSettings
from tests.certificates import certificate

Serve = Callable[..., dict[str, str]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(check, **settings)` runs a server; gives the variables that its container would have."""
    with ExitStack() as stack:

        def start(check: Callable[[], None] = lambda: None, **more: Any) -> dict[str, str]:
            settings = ServerSettings(port=0, metrics_port=0, drain_grace_ms=0, **more)
            server = Server(settings, [], keys=KeyRing(None), metrics=MetricsServer("127.0.0.1", 0), checks=[check])
            port = server.open()
            stack.callback(server.close)
            given = {"port": port, **more}
            return {f"PENSTOCK_{name.upper()}": str(value) for name, value in given.items()}

        yield start


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], int]:
    """Probe with these variables, and give the exit code."""

    def run(environment: dict[str, str]) -> int:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return probe.main()

    return run


def test_a_service_that_serves_is_healthy(serve: Serve, probed: Callable[[dict[str, str]], int]) -> None:
    environment = serve()
    # A container listens on every address; the probe takes the one that nobody else can reach.
    assert probed({**environment, "PENSTOCK_HOST": "0.0.0.0"}) == 0


def test_a_service_whose_database_is_gone_is_not(
    serve: Serve, probed: Callable[[dict[str, str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    def gone() -> None:
        raise Unavailable("gone", reason="DATABASE_UNAVAILABLE")

    assert probed(serve(gone)) == 1
    assert capsys.readouterr().err == "NOT_SERVING\n"


def test_a_port_where_nothing_listens_is_not_healthy(
    probed: Callable[[dict[str, str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert probed({"PENSTOCK_PORT": "1", "PENSTOCK_PROBE_TIMEOUT_MS": "500"}) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


def test_without_a_port_it_says_what_is_missing(
    probed: Callable[[dict[str, str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert probed({}) == 1
    assert "PENSTOCK_PORT" in capsys.readouterr().err


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual-tls"])
def test_tls_is_read_from_the_variables_of_the_service(
    mutual: bool, serve: Serve, probed: Callable[[dict[str, str]], int], tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    files = {"tls_cert_file": cert, "tls_key_file": key, **({"tls_client_ca_file": cert} if mutual else {})}
    environment = serve(**files)
    assert probed(environment) == 0
    assert probed({**environment, "PENSTOCK_PROBE_NAME": "registry"}) == 1, "the certificate names localhost alone"


def test_a_certificate_that_cannot_be_read_is_named(
    probed: Callable[[dict[str, str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert probed({"PENSTOCK_PORT": "1", "PENSTOCK_TLS_CERT_FILE": "/nowhere/cert.pem"}) == 1
    assert capsys.readouterr().err == "/nowhere/cert.pem cannot be read: No such file or directory\n"


def test_settings_come_from_a_folder_of_secrets_and_variables_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "penstock_database_url").write_text("postgresql://monitoring:secret@postgres/penstock\n")
    (tmp_path / "penstock_service_token").write_text("from the file\n")
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_SERVICE_TOKEN", "from the variable")
    settings = MonitoringSettings()  # type: ignore[call-arg] # the folder gives the database
    assert settings.database_url.get_secret_value() == "postgresql://monitoring:secret@postgres/penstock"
    assert settings.service_token is not None
    assert settings.service_token.get_secret_value() == "from the variable"


def test_what_is_empty_is_not_set_be_it_a_variable_a_line_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment passes on what it has, and makes every file of secrets: an empty one stands for nothing."""
    needed = {"database_url": "postgresql://fetcher@postgres/penstock", "blob_url": "file:///var/lib/penstock"}
    built_in = {name: field for name, field in FetcherSettings.model_fields.items() if name not in needed}
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.chdir(tmp_path)
    for name, value in needed.items():
        (secrets / f"penstock_{name}").write_text(f"{value}\n")
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(secrets))
    for each in ("variable", "line", "file"):
        for name in built_in:
            variable = f"PENSTOCK_{name.upper()}"
            if each == "variable":
                monkeypatch.setenv(variable, "")
            elif each == "line":
                monkeypatch.delenv(variable)
                with (tmp_path / ".env").open("a") as lines:
                    lines.write(f"{variable}=\n")
            else:
                (secrets / variable.lower()).write_text("\n")
        settings = FetcherSettings.model_validate({})
        said = {name: getattr(settings, name) for name in built_in}
        assert said == {name: field.get_default() for name, field in built_in.items()}, each
        assert settings.database_url.get_secret_value() == needed["database_url"]
