"""What a process that predicts is composed of: limits, sessions, the catalog that follows the registry, the spool.

The inference process and the jobs process build the same parts from here, each for itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from penstock.retries import NO_RETRIES
from services.common.cpus import cpu_count
from services.common.errors import DomainError
from services.inference.artifacts.artifacts import ArtifactCache
from services.inference.artifacts.registry_files import RegistryFiles
from services.inference.clients import client_of
from services.inference.engine.engine import EngineLimits
from services.inference.events.encoding import encode
from services.inference.events.events import Event, MonitoringSender
from services.inference.events.spool import Spool, SpoolSettings
from services.inference.following.catalog import Catalog
from services.inference.following.follower import CatalogTaker, Follower
from services.inference.following.takeovers import Takeovers
from services.inference.lookups.lookups import FeatureLookups
from services.inference.lookups.reader import FeatureReader
from services.inference.models import ResolvedVersion
from services.inference.runtimes.onnx_graphs import OptimisedGraphs
from services.inference.runtimes.runtime import Runtime
from services.inference.sessions.cached_session import SessionLimits
from services.inference.sessions.caches import SessionCaches
from services.inference.sessions.loader import BuildRuntime, ModelLoader
from services.inference.sessions.sessions import SessionCache
from services.inference.sessions.watchdog import RunWatchdog
from services.inference.settings import InferenceSettings
from services.inference.workers.membership import Membership

if TYPE_CHECKING:
    from services.inference.runtimes.onnx_runtime import OnnxRuntime

_log = structlog.get_logger(__name__)


def engine_limits(settings: InferenceSettings) -> EngineLimits:
    """Give what the engine heeds."""
    return EngineLimits(
        max_in_flight=settings.max_in_flight,
        load_wait_s=settings.load_timeout_ms / 1000,
        max_batch_size=settings.max_batch_size,
        max_queue_size=settings.max_queue_size,
        parallel_runs=cpu_count(),
        runners=settings.runner_threads,
    )


def runtimes_of(settings: InferenceSettings) -> dict[str, tuple[BuildRuntime, int]]:
    """Say how each framework's runtime is built, with the budget in bytes of its sessions.

    Imported where it is built: a runtime that nobody uses costs nothing.
    """

    # One for both that run ONNX graphs: they share the folder, its bound and what was verified in it.
    graphs = OptimisedGraphs(settings.cache_dir / "optimised", max_bytes=settings.optimised_cache_bytes)

    def onnx() -> OnnxRuntime:
        from services.inference.runtimes.onnx_runtime import OnnxRuntime

        graphs.open()
        return OnnxRuntime(
            intra_op_threads=settings.runtime_threads,
            memory_arena=settings.memory_arena,
            execution_providers=settings.execution_providers,
            graphs=graphs,
        )

    def transformers() -> Runtime:
        from services.inference.runtimes.transformers.session import TransformersRuntime

        return TransformersRuntime(onnx(), max_batch_tokens=settings.max_batch_tokens)

    def ollama() -> Runtime:
        from services.inference.runtimes.ollama.runtime import OllamaRuntime
        from services.inference.runtimes.ollama.server import OllamaLimits, OllamaServer

        limits = OllamaLimits(
            connect_timeout_s=settings.ollama_connect_timeout_ms / 1000,
            stall_timeout_s=settings.ollama_stall_timeout_ms / 1000,
            timeout_s=settings.ollama_timeout_ms / 1000,
            parallel_calls=settings.ollama_parallel,
        )
        return OllamaRuntime(
            OllamaServer(
                settings.ollama_url,
                limits,
                token_file=settings.ollama_token_file,
                insecure_token=settings.insecure_token,
            )
        )

    def tensorflow() -> Runtime:
        from services.inference.runtimes.tensorflow_runtime import TensorFlowRuntime

        return TensorFlowRuntime(threads=settings.runtime_threads)

    if settings.execution_providers != "cpu":
        onnx()  # one that this build lacks is known at the start, not with the first model
    return {
        "onnx": (onnx, settings.session_budget_bytes),
        "tensorflow": (tensorflow, settings.tensorflow_budget_bytes),
        "transformers": (transformers, settings.transformers_budget_bytes),
        "ollama": (ollama, settings.session_budget_bytes),
    }


def open_sessions(settings: InferenceSettings, stack: ExitStack, member: Membership | None = None) -> SessionCaches:
    """Open the session caches, with the watchdog over their runs."""
    client = stack.enter_context(client_of(settings))
    artifacts = ArtifactCache(settings.cache_dir, RegistryFiles(client), max_bytes=settings.artifact_cache_bytes)
    artifacts.open()
    caches = {}
    for framework, (build_runtime, budget_bytes) in runtimes_of(settings).items():
        loader = ModelLoader(artifacts, build_runtime)
        limits = SessionLimits(budget_bytes=budget_bytes, max_sessions=settings.max_sessions)
        caches[framework] = SessionCache(loader, limits, prepare=loader.runtime, fetch=loader.fetch)
    sessions = SessionCaches(caches)
    if member is not None:
        sessions.keep_counts_in(member.counters)
    stack.callback(sessions.close, settings.drain_grace_ms / 1000)
    watchdog = RunWatchdog(sessions, run_limit_s=settings.run_limit_ms / 1000)
    watchdog.open()
    stack.callback(watchdog.close)
    if member is not None:
        member.stuck = lambda: watchdog.stuck
    return sessions


def open_spool(settings: InferenceSettings, stack: ExitStack, member: Membership | None = None) -> Spool[Event] | None:
    """Open the spool of events; None where none are kept."""
    if not settings.capture:
        return None
    client = stack.enter_context(client_of(settings))
    spool = Spool[Event](
        settings.spool_dir,
        encode,
        MonitoringSender(client),
        SpoolSettings(
            queue_items=settings.spool_queue_events,
            max_bytes=settings.spool_max_bytes,
            at_limit=settings.spool_when_full,
            fsync=settings.spool_fsync,
        ),
    )
    if member is not None:
        spool.keep_counts_in(member.counters)
    spool.open()
    stack.callback(spool.close, settings.drain_grace_ms / 1000)
    return spool


def open_lookups(settings: InferenceSettings, stack: ExitStack, member: Membership) -> FeatureLookups:
    """Open the look-ups of entities, with a client of their own, which never asks twice."""
    timeout_s = settings.feature_timeout_ms / 1000
    client = stack.enter_context(client_of(settings, timeout_s=timeout_s, retry=NO_RETRIES))
    reader = FeatureReader(client, timeout_s=timeout_s, max_at_once=settings.max_feature_lookups)
    reader.keep_counts_in(member.counters)
    return FeatureLookups(reader)


def follow(
    settings: InferenceSettings, stack: ExitStack, catalog: Catalog, sessions: SessionCaches, member: Membership
) -> None:
    """Follow the registry: keep the catalog as it says, and load what goes live before it does."""

    def prepare(version: ResolvedVersion) -> None:
        """Load what is about to go live; if it cannot be, its first request will say why."""
        try:
            sessions.release(sessions.acquire(version, settings.load_timeout_ms / 1000))
        except DomainError as error:
            _log.error("the new live version does not load", version=version.key, reason=error.reason)

    def settle(before: ResolvedVersion, now: ResolvedVersion | None) -> None:
        """Let go of what is gone, once its last request is done, and keep what is to be kept from now on."""
        if now is None or now.key != before.key:
            sessions.unload(before.key)
        elif now.serving.pinned != before.serving.pinned:
            sessions.pin(now.key, pinned=now.serving.pinned)

    taker = CatalogTaker(Takeovers(catalog, prepare, settle))
    follower = Follower(member.watch(settings), taker, settings.cache_dir if member.follows_alone else None)
    follower.open()
    stack.callback(follower.close)
