"""Where the services are and which key to show: flag over environment over `.env` over the suite that runs here.

What is not said anywhere is a service's usual port on this machine.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from penstock.cli.exits import CommandError, ExitCode

if TYPE_CHECKING:
    from penstock.client import Client

_TRUE = ("1", "true", "yes", "on")


class Service(enum.StrEnum):
    """A service that commands talk to."""

    REGISTRY = "registry"
    INFERENCE = "inference"
    MONITORING = "monitoring"
    JOBS = "jobs"
    FETCHER = "fetcher"
    TRAINER = "trainer"


DEFAULT_PORTS = {
    Service.REGISTRY: 50051,
    Service.INFERENCE: 8001,
    Service.MONITORING: 50053,
    Service.JOBS: 50056,
    Service.FETCHER: 50054,
    Service.TRAINER: 50055,
}
_LISTS = {
    (Service.JOBS, "JOB_NOT_FOUND"): "penstock job list",
    (Service.FETCHER, "JOB_NOT_FOUND"): "penstock fetch list",
    (Service.TRAINER, "RUN_NOT_FOUND"): "penstock train list",
    (Service.FETCHER, "SCHEDULE_NOT_FOUND"): "penstock fetch schedule list",
}
"""What shows which there are, where several services have one reason."""


def surroundings(folder: Path | None = None) -> dict[str, str]:
    """Read the environment, with the `.env` file of a folder (default: the present one) behind it. Empty is unset."""
    said = {**dotenv_values((folder or Path.cwd()) / ".env"), **os.environ}
    return {name: value for name, value in said.items() if value}


def data_dir(flag: Path | None, environment: Mapping[str, str]) -> Path:
    """Find the data folder: the flag, PENSTOCK_DATA_DIR, or `.penstock` in the home folder."""
    said = environment.get("PENSTOCK_DATA_DIR")
    return flag or (Path(said) if said else default_data_dir())


def default_data_dir() -> Path:
    """Find the folder that is used where none is named: the same wherever a command is typed."""
    try:
        return Path.home() / ".penstock"
    except RuntimeError as error:  # HOME is unset, and the system does not know the user
        raise CommandError(
            "you have no home folder: give --data-dir, or set PENSTOCK_DATA_DIR or HOME",
            reason="NO_HOME_FOLDER",
            exit_code=ExitCode.USAGE,
        ) from error


def keys_path(flag: Path | None, environment: Mapping[str, str]) -> Path:
    """Find the keys file: the flag, PENSTOCK_KEYS_FILE, or the one in the data folder."""
    said = environment.get("PENSTOCK_KEYS_FILE")
    return flag or (Path(said) if said else data_dir(None, environment) / "keys.json")


def address_of(service: Service, url: str | None, environment: Mapping[str, str], running: Mapping[str, str]) -> str:
    """Find a service's address; `running` names those of the suite that runs here, if one does."""
    return (
        url
        or environment.get(f"PENSTOCK_{service.name}_ADDRESS")
        or running.get(service)
        or f"127.0.0.1:{DEFAULT_PORTS[service]}"
    )


@contextmanager
def connect(service: Service, url: str | None, token: str | None) -> Iterator[Client]:
    """Open a client whose one service is where the flag, the environment, `.env` or the running suite says it is.

    PENSTOCK_CA_FILE, PENSTOCK_CERT_FILE and PENSTOCK_KEY_FILE are for TLS. PENSTOCK_INSECURE_TOKEN=1 lets the key
    travel in plain text to another machine.
    """
    from penstock.client import Client  # grpc takes 100 ms, which `--help` must not wait for
    from penstock.errors import PenstockError

    environment = surroundings()
    said = url or environment.get(f"PENSTOCK_{service.name}_ADDRESS")
    running = {} if said else running_addresses(environment)
    if not said and not running and environment.get("PENSTOCK_DATA_DIR"):
        # Whoever names a folder means the suite on it; another one that listens on the usual ports is not it.
        raise CommandError(
            f"no suite runs on {environment['PENSTOCK_DATA_DIR']}, which PENSTOCK_DATA_DIR names: start it by "
            "`penstock up`, or give --url",
            reason="NOT_RUNNING",
            exit_code=ExitCode.UNAVAILABLE,
        )
    address = address_of(service, url, environment, running)
    with Client(
        registry=address if service is Service.REGISTRY else None,
        inference=address if service is Service.INFERENCE else None,
        monitoring=address if service is Service.MONITORING else None,
        jobs=address if service is Service.JOBS else None,
        fetcher=address if service is Service.FETCHER else None,
        trainer=address if service is Service.TRAINER else None,
        token=token or environment.get("PENSTOCK_TOKEN", ""),
        ca_file=environment.get("PENSTOCK_CA_FILE"),
        cert_file=environment.get("PENSTOCK_CERT_FILE"),
        key_file=environment.get("PENSTOCK_KEY_FILE"),
        insecure=environment.get("PENSTOCK_INSECURE_TOKEN", "").lower() in _TRUE,
    ) as client:
        try:
            yield client
        except PenstockError as error:
            if (service, error.reason) in _LISTS:
                error.add_note(f"`{_LISTS[service, error.reason]}` shows which there are")
            raise


def running_addresses(environment: Mapping[str, str]) -> dict[str, str]:
    """Find where the services of the suite on this data folder listen; none where none runs."""
    try:
        from penstock.cli.embedded.folder import DataFolder

        folder = data_dir(None, environment)
    except (ImportError, CommandError):
        return {}  # the SDK alone, or nowhere to keep data: no suite can run from here
    running = DataFolder(folder).find_running()
    return running.addresses if running else {}
