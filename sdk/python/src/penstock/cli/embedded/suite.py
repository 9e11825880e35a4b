"""The whole of Penstock on one machine: PostgreSQL and all services, in one folder."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from penstock.cli.embedded.child import ChildSpec, RestartPolicy
from penstock.cli.embedded.errors import EmbeddedError
from penstock.cli.embedded.folder import DataFolder, ProcessMark, State, write_private
from penstock.cli.embedded.health import credentials_of, is_serving
from penstock.cli.embedded.ports import HOST, Ports
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.cli.embedded.processes import stop_process
from penstock.cli.embedded.supervisor import Event, EventKind, OnEvent, Supervisor
from penstock.cli.keys_file import KeyNotFound, KeysFile, Kind, Role

SERVICES = ("registry", "monitoring", "inference", "jobs", "fetcher", "trainer")
"""Started together, stopped one by one from the last: who calls goes before who answers."""
MODULES = {"jobs": "services.inference.jobs"}
"""What is run, where it is not services.NAME."""
ON_POSTGRES = ("registry", "monitoring", "jobs", "fetcher", "trainer")
"""Who gets the database's password. Inference touches no database; its batch jobs are rows of one."""
SECRETS = (
    "PENSTOCK_TOKEN",
    "PENSTOCK_SERVICE_TOKEN",
    "PENSTOCK_DATABASE_URL",
    "PENSTOCK_LISTEN_URL",
    "PENSTOCK_BLOB_ACCESS_KEY",
    "PENSTOCK_BLOB_SECRET_KEY",
)
"""What of our own environment no service needs to see."""
OF_SOURCES = ("PENSTOCK_FETCHER_HF_TOKEN", "PENSTOCK_FETCHER_S3_ACCESS_KEY", "PENSTOCK_FETCHER_S3_SECRET_KEY")
"""What the fetcher alone needs to see: what it shows to the places that models come from."""
START_DEADLINE_S = 60.0
POSTGRES_GRACE_S = 30.0


class Suite:
    """The embedded suite on one data folder. One thread calls `start`, `wait` and `stop`, and outlives them.

    with suite.stopping_on_signals():
        try:
            suite.start(on_event)
            suite.wait()
        finally:
            suite.stop()
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ports: Ports | None = None,
        environment: Mapping[str, str] | None = None,
        commands: Mapping[str, tuple[str, ...]] | None = None,
        policy: RestartPolicy | None = None,
    ) -> None:
        """Nothing is touched yet. `environment` (default: our own) is what the services see beside our settings.

        A PENSTOCK_KEYS_FILE in it stands for the folder's own, as it does for `penstock key`. `commands` replaces how
        a service is started, by name.
        """
        self.folder = DataFolder(data_dir)
        self.ports = ports or Ports()
        self._environment = dict(os.environ if environment is None else environment)
        self._commands = {
            name: (sys.executable, "-m", MODULES.get(name, f"services.{name}")) for name in SERVICES
        } | dict(commands or {})
        said = self._environment.get("PENSTOCK_KEYS_FILE")
        self._keys_file = Path(said).absolute() if said else self.folder.keys_file
        self._policy = policy
        self._supervisor: Supervisor | None = None
        self._state: State | None = None
        self._stops_requested = 0

    @property
    def state(self) -> State:
        """What runs, and where; raises EmbeddedError before `start`."""
        if self._state is None:
            raise EmbeddedError("The suite is not started.")
        return self._state

    def check(self) -> None:
        """See that nothing said forbids the start; nothing is touched, so that a refusal leaves no folder behind.

        Raises EmbeddedError as `start` does. The ports of a folder that is there are looked at later: what a suite that
        was killed left running may have them.
        """
        said = self._environment
        if said.get("PENSTOCK_TLS_CERT_FILE") and not said.get("PENSTOCK_CA_FILE"):
            raise EmbeddedError(
                "PENSTOCK_TLS_CERT_FILE is set, so the services call one another over TLS: set PENSTOCK_CA_FILE to "
                "the certificates that vouch for it, and see that it is for the name localhost."
            )
        if not self.folder.path.exists():
            self.ports.settled()

    def start(self, on_event: OnEvent = lambda _: None, *, deadline_s: float = START_DEADLINE_S) -> None:
        """Start everything and return when all is healthy; call `stop` whatever comes of it.

        Raises AlreadyRunningError when another suite works on the folder, and EmbeddedError with what to do
        when a port is taken, a child keeps dying, the TLS files are not all named or the deadline passes.
        """
        self.check()
        self.folder.lock()
        cluster = PostgresCluster(self.folder.postgres)
        self._stop_orphans(cluster)
        self.ports = self.ports.settled()
        cluster.create()
        self._supervisor = Supervisor(
            self._stages(cluster, self.ports),
            log_folder=self.folder.logs,
            on_event=partial(self._record, on_event),
            policy=self._policy,
        )
        self._write(self._first_state(self.ports))
        for _ in range(self._stops_requested):
            self._supervisor.request_stop()
        self._supervisor.start(deadline_s=deadline_s)
        self._write(replace(self.state, ready=True))

    def wait(self) -> None:
        """Keep everything running until asked to stop; raises EmbeddedError when a child keeps dying."""
        if self._supervisor is not None:
            self._supervisor.wait()

    def request_stop(self) -> None:
        """Ask for the end; the second time, for a quick one. Safe in signal handlers and other threads."""
        self._stops_requested += 1
        if self._supervisor is not None:
            self._supervisor.request_stop()

    def stop(self) -> None:
        """Stop everything in reverse order, and give the folder back. Nothing is left running."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self.folder.clear_state()
            self._supervisor = None
        self.folder.unlock()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Inside, SIGINT, SIGTERM and a closed terminal ask for the end. For the main thread."""
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heeded = [each for each in signals if signal.getsignal(each) is not signal.SIG_IGN]  # nohup ignores some
        previous = {each: signal.signal(each, lambda *_: self.request_stop()) for each in heeded}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def _stop_orphans(self, cluster: PostgresCluster) -> None:
        """End what a suite that was killed left running here; we hold the lock, so none of it has a parent."""
        previous = self.folder.read_state()
        for mark in previous.children.values() if previous else ():
            if (process := mark.find()) and process.name() != "postgres":
                stop_process(process, (signal.SIGKILL,), grace_s=5.0)
        cluster.stop_orphan()
        self.folder.clear_state()

    def _stages(self, cluster: PostgresCluster, ports: Ports) -> list[list[ChildSpec]]:
        postgres = ChildSpec(
            name="postgres",
            command=cluster.command(ports.postgres),
            environment=cluster.environment,
            is_healthy=partial(cluster.is_ready, ports.postgres),
            stop_signal=signal.SIGINT,
            death_signal=None,
            grace_s=POSTGRES_GRACE_S,
        )
        url = cluster.url(ports.postgres)
        database = {"PENSTOCK_DATABASE_URL": url, "PENSTOCK_LISTEN_URL": url}
        shared = self._shared_environment(ports)
        secrets_key = {"PENSTOCK_SECRETS_KEY_FILE": self._secrets_key_file()}
        own = {
            # Two processes do not keep model files in one folder.
            "jobs": {"PENSTOCK_CACHE_DIR": str(self.folder.jobs_cache)},
            "monitoring": secrets_key,
            "fetcher": secrets_key | {name: said for name in OF_SOURCES if (said := self._environment.get(name))},
        }
        services = [
            self._service(name, {**shared, **(database if name in ON_POSTGRES else {}), **own.get(name, {})}, ports)
            for name in SERVICES
        ]
        return [[postgres], services]

    def _service(self, name: str, environment: Mapping[str, str], ports: Ports) -> ChildSpec:
        port: int = getattr(ports, name)
        return ChildSpec(
            name=name,
            command=self._commands[name],
            environment={
                **environment,
                "PENSTOCK_PORT": str(port),
                "PENSTOCK_METRICS_PORT": str(getattr(ports, f"{name}_metrics")),
                "PENSTOCK_SERVICE_TOKEN_FILE": str(self._service_token_file(name)),
            },
            is_healthy=partial(is_serving, self._address(port), credentials_of(self._environment)),
        )

    def _shared_environment(self, ports: Ports) -> dict[str, str]:
        # libpq would mix the user's PG… variables (PGSSLMODE, PGOPTIONS) into our DSN.
        theirs = {
            name: value
            for name, value in self._environment.items()
            if not name.startswith("PG") and name not in {*SECRETS, *OF_SOURCES}
        }
        return {
            **theirs,
            # Beside everything else on one machine, a process for each core would only be in the way.
            "PENSTOCK_INFERENCE_WORKERS": self._environment.get("PENSTOCK_INFERENCE_WORKERS") or "1",
            "PENSTOCK_HOST": HOST,
            "PENSTOCK_BLOB_URL": self.folder.blobs.as_uri(),
            "PENSTOCK_KEYS_FILE": str(self._keys_file),
            "PENSTOCK_SPOOL_DIR": str(self.folder.spool),
            "PENSTOCK_CACHE_DIR": str(self.folder.cache),
            **{f"PENSTOCK_{name.upper()}_ADDRESS": self._address(getattr(ports, name)) for name in SERVICES},
        }

    def _address(self, port: int) -> str:
        """Say where a service listens; under TLS by the name that is in its certificate."""
        return f"grpcs://localhost:{port}" if self._environment.get("PENSTOCK_TLS_CERT_FILE") else f"{HOST}:{port}"

    def _service_token_file(self, name: str) -> Path:
        """Find the file of the service's own key; made once, and again when its file or its entry is gone."""
        keys = KeysFile(self._keys_file)
        key_name, file = f"service.{name}", self.folder.tokens / name
        if file.exists() and any(key.name == key_name for key in keys.list()):
            return file
        with suppress(KeyNotFound):  # as on the first start
            keys.revoke(key_name)
        _, token = keys.create(key_name, Role.OPERATOR, kind=Kind.SERVICE)
        write_private(file, token)
        return file

    def _secrets_key_file(self) -> str:
        """Name the file of the key for secrets in the database: the one that was said, or our own, made once."""
        said = self._environment.get("PENSTOCK_SECRETS_KEY_FILE")
        file = self.folder.secrets_key_file
        if not said and not file.exists():
            write_private(file, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        return said or str(file)

    def _first_state(self, ports: Ports) -> State:
        ourselves = ProcessMark.of(os.getpid())
        if ourselves is None:
            raise EmbeddedError("This machine hides processes from themselves; /proc must be mounted.")
        return State(
            supervisor=ourselves,
            started_time=datetime.now(UTC).isoformat(timespec="seconds"),
            addresses={name: self._address(getattr(ports, name)) for name in SERVICES},
            metrics_addresses={name: f"{HOST}:{getattr(ports, f'{name}_metrics')}" for name in SERVICES},
        )

    def _record(self, on_event: OnEvent, event: Event) -> None:
        """Keep the children's pids on disk, for the start after a kill -9, and pass the event on.

        What runs goes on running: neither a full disk nor a terminal that is gone may end it.
        """
        if event.kind is EventKind.STARTED and event.pid and (mark := ProcessMark.of(event.pid)):
            with suppress(OSError):
                self._write(self._with_started(event.name, mark))
        with suppress(OSError):
            on_event(event)

    def _with_started(self, name: str, mark: ProcessMark) -> State:
        restarts = dict(self.state.restarts)
        if name in self.state.children:
            restarts[name] = restarts.get(name, 0) + 1
        return replace(self.state, children={**self.state.children, name: mark}, restarts=restarts)

    def _write(self, state: State) -> None:
        self._state = state
        self.folder.write_state(state)
