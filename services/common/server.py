"""The server kit: a gRPC server with pools, limits, health, reflection, metrics and an orderly end.

Health, reflection, unary calls and streams have threads of their own, so that none waits behind another: a pod that
is merely busy stays healthy in the eyes of its kubelet.
"""

from __future__ import annotations

import ipaddress
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from services.common.budgets import BudgetCollector
from services.common.certificates import CertificateFiles, Certificates
from services.common.counters import Counters
from services.common.errors import DomainError, FailedPrecondition
from services.common.interceptors import Wrapper
from services.common.keys import KeyRing, Role
from services.common.metrics import GrpcCollector, MetricsServer
from services.common.pools import BoundedPool
from services.common.settings import ServerSettings
from services.common.streams import OpenStreams
from services.common.traces import Traces

_log = structlog.get_logger(__name__)
CONTROL_THREADS = 4
HEALTH_THREADS = 2
AWAKE_THREADS = 4
"""One works, one comes to, and others wait for grpc to hand them their request: measured from 1 to 64 on one core."""
RECOVERY_INTERVAL_S = 0.1
SIGNAL_INTERVAL_S = 0.5
SWEEP_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service to serve.

    Attributes:
        name: the full proto name, for health and reflection.
        register: the generated `add_…Servicer_to_server`, bound to the servicer.
        roles: the role that each RPC needs; every RPC must be there.
        control: unary RPCs that must be answered while predictions fill the server. They share a few threads, so each
            must be quick: it reads memory, and asks no other process.
        brief: unary RPCs that need the interpreter for a fraction of a millisecond, and say so where they wait
            (`pools.WAITING`). A few threads of theirs are awake at once, which answers more of them than many would.
        endless: streams without an end of their own; they end with UNAVAILABLE when the server drains, and their
            clients may be silent for as long as there are places for others.
    """

    name: str
    register: Callable[[Any], None]
    roles: Mapping[str, Role]
    control: frozenset[str] = frozenset()
    brief: frozenset[str] = frozenset()
    endless: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a server shares with the others on its port, each in a process of its own.

    Attributes:
        counters: counts for all of them.
        max_connection_age_ms: a connection is ended so long after it began, give or take a tenth, that a new one may
            be another's; 0: never. What runs on it is finished.
    """

    counters: Counters
    max_connection_age_ms: int = 0


class _Recorder:
    """Stands in for a grpc.Server while the generated code registers a servicer, and keeps the handlers."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_registered_method_handlers(self, _service: str, handlers: Any) -> None:
        self.handlers.update(handlers)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Take nothing: the same handlers come by the other door, one by one."""


class _Pools:
    """The threads of a server: none waits behind calls of another kind, and what a full pool refuses, control says."""

    def __init__(self, settings: ServerSettings) -> None:
        threads, backlog = settings.request_threads, settings.request_backlog
        self.control = control = BoundedPool(CONTROL_THREADS, 1_000, "control")
        # A kubelet kills whoever does not answer it, whatever else is asked.
        self.health = BoundedPool(HEALTH_THREADS, 1_000, "health", control)
        self.unary = BoundedPool(threads, backlog, "unary", control)
        self.brief = BoundedPool(threads, backlog, "brief", control, AWAKE_THREADS)
        self.streams = BoundedPool(settings.max_streams, 0, "stream", control)
        # Whoever has no key can take no place from those who have.
        self.public = BoundedPool(settings.max_streams, 0, "public", control)
        self.all = (control, self.health, self.unary, self.brief, self.streams, self.public)

    def of(self, service: Service, method: str, *, streaming: bool) -> BoundedPool:
        """Choose the pool of an RPC."""
        if streaming:
            return self.public if service.roles[method] is Role.PUBLIC else self.streams
        if service.name == health.SERVICE_NAME:
            return self.health
        if method in service.control:
            return self.control
        return self.brief if method in service.brief else self.unary


class Server:
    """A service's process as the network sees it. Build it, `open` it, `wait`, `close` it."""

    def __init__(
        self,
        settings: ServerSettings,
        services: Sequence[Service],
        *,
        keys: KeyRing,
        metrics: MetricsServer,
        checks: Sequence[Callable[[], None]] = (),
        traces: Traces | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._settings = settings
        self._services = services
        self._keys = keys
        self._metrics = metrics
        self._checks = checks
        self._traces = traces
        self._stopping = threading.Event()
        self._drained = threading.Event()
        self._streams = OpenStreams()
        self._sharing = sharing
        self._serving = False
        self._collector = GrpcCollector(sharing.counters if sharing else None)
        self.metrics_port = settings.metrics_port

    def open(self) -> int:
        """Listen, and say on which port.

        Raises:
            FailedPrecondition: the address is not a loopback one and no keys are configured (INSECURE_ADDRESS), it
                is taken (ADDRESS_IN_USE), or the TLS files are not all there or of no use (TLS_INCOMPLETE,
                TLS_UNREADABLE, TLS_MISMATCH).
        """
        self._refuse_open_door()
        settings = self._settings
        credentials = _credentials(CertificateFiles.of(settings))
        self._pools = pools = _Pools(settings)
        self._server = grpc.server(
            pools.unary,
            options=_options(settings, self._sharing),
            # The pools refuse long before this; it is the last line.
            maximum_concurrent_rpcs=sum(pool.limit for pool in pools.all) + 100,
        )
        self._health = health.HealthServicer(experimental_non_blocking=False)
        services = (*self._services, *self._public())
        self._register(services)
        for collector in (self._collector, BudgetCollector(self._keys.budgets)):
            self._metrics.registry.register(collector)
        self._metrics.ready = lambda: self._serving
        self.metrics_port = self._metrics.open()
        try:
            port = self._listen(credentials)
        except FailedPrecondition:
            self._metrics.close()
            raise
        serving = self._check(was_serving=True)
        self._server.start()
        self._watchers = (
            threading.Thread(target=self._watch_dependencies, args=(serving,), name="health", daemon=True),
            threading.Thread(target=self._watch_streams, name="streams", daemon=True),
        )
        for watcher in self._watchers:
            watcher.start()
        _log.info("listening", address=f"{settings.host}:{port}", metrics_port=self.metrics_port)
        return port

    def wait(self) -> None:
        """Block until SIGTERM or SIGINT, or until `stop` is called."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        # A signal that comes between Python's last look and the kernel's wait would wake nobody from an endless wait.
        while not self._stopping.wait(SIGNAL_INTERVAL_S):
            pass

    def stop(self) -> None:
        """Make `wait` return."""
        self._stopping.set()

    @property
    def draining(self) -> bool:
        """Whether `close` has begun."""
        return self._streams.draining

    def close(self) -> None:
        """Say NOT_SERVING, take nothing new, end the endless streams, finish what is in flight, and stop.

        It ends with the drain grace, though a call may hang. Closing a closed server does nothing.
        """
        if self.draining:
            return
        self._stopping.set()
        self._serving = False
        _log.info("draining", grace_ms=self._settings.drain_grace_ms)
        self._health.enter_graceful_shutdown()
        self._streams.end()
        grace_s = self._settings.drain_grace_ms / 1000
        until_s = time.monotonic() + grace_s
        self._server.stop(grace_s).wait()
        self._drained.set()
        self._end_threads(until_s)
        self._metrics.close()
        _log.info("closed")

    def _end_threads(self, until_s: float) -> None:
        """End all threads, and leave those that still work at that time on the monotonic clock to themselves."""
        for pool in self._pools.all:
            pool.shutdown(wait=False, cancel_futures=True)
        for watcher in self._watchers:
            watcher.join(max(0.0, until_s - time.monotonic()))
        for pool in self._pools.all:
            pool.shutdown(timeout_s=max(0.0, until_s - time.monotonic()))
        if left := sum(pool.held for pool in self._pools.all):
            _log.warning("calls are left that did not end within the grace", calls=left)

    def _public(self) -> tuple[Service, Service]:
        names = [*(service.name for service in self._services), health.SERVICE_NAME, reflection.SERVICE_NAME]
        return (
            Service(
                name=health.SERVICE_NAME,
                register=partial(health_pb2_grpc.add_HealthServicer_to_server, self._health),
                roles={"Check": Role.PUBLIC, "Watch": Role.PUBLIC},
                endless=frozenset({"Watch"}),
            ),
            Service(
                name=reflection.SERVICE_NAME,
                register=partial(
                    reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
                    reflection.ReflectionServicer(names),
                ),
                roles={"ServerReflectionInfo": Role.PUBLIC},
                endless=frozenset({"ServerReflectionInfo"}),
            ),
        )

    def _register(self, services: Sequence[Service]) -> None:
        wrapper = Wrapper(
            keys=self._keys,
            collector=self._collector,
            access_log_share=self._settings.access_log_share,
            streams=self._streams,
            traces=self._traces,
        )
        for service in services:
            recorder = _Recorder()
            service.register(recorder)
            handlers = {}
            for method, handler in recorder.handlers.items():
                streaming = handler.request_streaming or handler.response_streaming
                pool = self._pools.of(service, method, streaming=streaming)
                handlers[method] = wrapper.wrap(
                    service.name,
                    method,
                    handler,
                    role=service.roles[method],
                    pool=pool,
                    endless=method in service.endless,
                )
            # Registered handlers are found by grpc's core; a generic one would be asked for in Python, at each call.
            self._server.add_registered_method_handlers(service.name, handlers)

    def _refuse_open_door(self) -> None:
        settings = self._settings
        if settings.insecure or self._keys.enforced or is_loopback(settings.host):
            return
        raise FailedPrecondition(
            f"refusing to listen on {settings.host} without keys: anyone could be an admin. Configure "
            "PENSTOCK_KEYS_FILE (`penstock key create` makes it), listen on 127.0.0.1, or set PENSTOCK_INSECURE=true",
            reason="INSECURE_ADDRESS",
        )

    def _listen(self, credentials: grpc.ServerCredentials | None) -> int:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise FailedPrecondition(
                f"cannot listen on {address}: is another server there? PENSTOCK_PORT chooses another port",
                reason="ADDRESS_IN_USE",
            ) from error

    def _watch_dependencies(self, serving: bool) -> None:
        interval_s = self._settings.health_interval_ms / 1000
        # Whoever waits for this server wants to know at once when it can serve again.
        while not self._stopping.wait(interval_s if serving else min(interval_s, RECOVERY_INTERVAL_S)):
            serving = self._check(was_serving=serving)

    def _watch_streams(self) -> None:
        pools = self._pools.streams, self._pools.public
        idle_limit_s = self._settings.stream_idle_timeout_ms / 1000
        interval_s = min(SWEEP_INTERVAL_S, idle_limit_s)
        while not self._drained.wait(interval_s):
            try:
                self._streams.sweep(idle_limit_s=idle_limit_s, full=lambda: any(pool.full for pool in pools))
            except Exception:  # noqa: BLE001 - logged, and tried again
                # Without its sweeps a revoked key would keep its streams for good.
                _log.exception("streams not swept, trying again", interval_s=interval_s)

    def _check(self, *, was_serving: bool) -> bool:
        status = health_pb2.HealthCheckResponse.SERVING
        for check in self._checks:
            try:
                check()
            except DomainError as error:
                status = health_pb2.HealthCheckResponse.NOT_SERVING
                if was_serving:
                    _log.warning("not serving", reason=error.reason, message=error.message)
        if not self._stopping.is_set():
            for name in ("", *(service.name for service in self._services)):
                self._health.set(name, status)
        serving = bool(status == health_pb2.HealthCheckResponse.SERVING)
        self._serving = serving and not self._stopping.is_set()
        return serving


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(files: CertificateFiles | None) -> grpc.ServerCredentials | None:
    """Make grpc ask at each new connection whether the files have changed."""
    if files is None:
        return None

    def changed() -> grpc.ServerCertificateConfiguration | None:
        found = files.changed()
        return None if found is None else _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(files.read()),
        changed,  # type: ignore[arg-type] # None is for no change, which the stubs do not know
        require_client_authentication=files.wants_clients,
    )


def _configuration(found: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], root_certificates=found.client_ca)


def _options(settings: ServerSettings, sharing: Sharing | None) -> list[tuple[str, int]]:
    options = [
        # A second server on the same port must fail, unless they are one service.
        ("grpc.so_reuseport", 0 if sharing is None else 1),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # A dead peer is noticed within about 80 s; a client may ping every 10 s.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
    if sharing is not None and sharing.max_connection_age_ms:
        options.append(("grpc.max_connection_age_ms", sharing.max_connection_age_ms))
    return options
