"""The inference process: `python -m services.inference`. The only file that knows everything."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # With several workers this process becomes their supervisor, which has no use for all that follows.
    from services.inference.workers.supervisor import supervise

    supervise(sys.argv[1:])

from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from services.common.errors import DomainError
from services.common.keys import KeyRing
from services.common.process import run
from services.common.server import Server, is_loopback
from services.common.traces import Traces, open_traces
from services.inference import servicer
from services.inference.artifacts.artifacts import ArtifactCache
from services.inference.artifacts.registry_files import RegistryFiles
from services.inference.caching import servicer as caching
from services.inference.caching.answers import AnswerStore
from services.inference.caching.cache import CacheDefaults, CacheDesk, ResponseCache
from services.inference.caching.counts import CacheStatistics
from services.inference.caching.engine import CachingEngine
from services.inference.caching.memory import MemoryAnswers
from services.inference.caching.metrics import CacheCollector
from services.inference.clients import client_of
from services.inference.control import control, log_settings, trace_settings
from services.inference.control import servicer as control_servicer
from services.inference.engine.engine import Engine, EngineLimits
from services.inference.events.events import Event, EventLog, MonitoringSender, encode
from services.inference.events.spool import Spool, SpoolSettings
from services.inference.following.catalog import Catalog
from services.inference.following.follower import CatalogTaker, Follower
from services.inference.following.preloading import Preloader
from services.inference.following.takeovers import Takeovers
from services.inference.generation.generator import TextGenerator
from services.inference.metrics import InferenceCollector
from services.inference.models import ResolvedVersion
from services.inference.oip import servicer as oip
from services.inference.oip.repository import Repository
from services.inference.prediction import Predictor
from services.inference.runtimes.cpus import cpu_count
from services.inference.runtimes.runtime import Runtime
from services.inference.sessions.cached_session import SessionLimits
from services.inference.sessions.caches import SessionCaches
from services.inference.sessions.loader import BuildRuntime, ModelLoader
from services.inference.sessions.sessions import SessionCache
from services.inference.sessions.watchdog import RunWatchdog
from services.inference.settings import InferenceSettings
from services.inference.shared_memory import control as shared_memory
from services.inference.texts.attempts import TextRuns
from services.inference.texts.embed import TextEmbedder
from services.inference.texts.rank import ItemRanker
from services.inference.workers.membership import Membership, OnlyProcess

if TYPE_CHECKING:
    from services.inference.runtimes.onnx_runtime import OnnxRuntime

_log = structlog.get_logger(__name__)


def build(settings: InferenceSettings, stack: ExitStack, member: Membership | None = None) -> Server:
    """Open all that the server stands on; `stack` closes it in reverse. `member`: of several workers; None: alone."""
    member = member or OnlyProcess()
    keys = KeyRing(settings.keys_file)
    keys.open()
    metrics = member.metrics(settings)
    traces = open_traces("inference", settings, stack)
    catalog = Catalog()
    sessions = _sessions(settings, stack, member)
    engine = Engine(catalog, sessions, _limits(settings), member.counters)
    cache = _response_cache(settings, stack, member)
    spool = _spool(settings, stack)
    events = EventLog(spool)
    predictor = Predictor(catalog, CachingEngine(engine, cache), events)
    generator = TextGenerator(catalog, engine, events)
    runs = TextRuns(catalog, CachingEngine(engine, cache), events, max_batch_size=settings.max_batch_size)
    _follow(settings, stack, catalog, sessions, member)
    preloader = Preloader(catalog, sessions, settings.preload.split(","), load_wait_s=settings.load_timeout_ms / 1000)
    preloader.open()
    stack.callback(preloader.close)
    metrics.registry.register(InferenceCollector(engine, sessions, spool))
    metrics.registry.register(CacheCollector(cache))
    desk = CacheDesk(cache, member.commands, member.broadcast)
    hands = control.SessionControl(catalog, member.broadcast, load_wait_s=settings.load_timeout_ms / 1000)
    control.SessionCommands(catalog, sessions).add_to(member.commands)
    repository = Repository(catalog, engine, sessions, member.broadcast, max_batch_size=settings.max_batch_size)
    open_inference = _open_inference(settings, member, predictor, repository, hands, traces)
    member.join()
    return Server(
        settings,
        [
            oip.service(open_inference),
            control_servicer.service(hands),
            caching.service(desk),
            servicer.service(
                predictor,
                generator,
                TextEmbedder(runs),
                ItemRanker(runs),
                stream_max_in_flight=settings.stream_max_in_flight,
            ),
        ],
        keys=keys,
        metrics=metrics,
        checks=(catalog.check,),
        traces=traces,
        sharing=member.sharing,
    )


def _open_inference(
    settings: InferenceSettings,
    member: Membership,
    predictor: Predictor,
    repository: Repository,
    hands: control.SessionControl,
    traces: Traces | None,
) -> oip.OpenInferenceServicer:
    """Build the Open Inference Protocol's front door, with what it tells every worker."""
    regions = shared_memory.open_regions(enabled=settings.shared_memory, loopback=is_loopback(settings.host))
    if regions is not None:
        shared_memory.add_commands(member.commands, regions)
    repository.add_to(member.commands)
    log_settings.add_commands(member.commands)
    if traces is not None:
        trace_settings.add_commands(member.commands, traces)
    return oip.OpenInferenceServicer(
        predictor,
        repository,
        hands,
        shared_memory.SharedMemory(regions, member.broadcast),
        log_settings.LogSettings(member.broadcast),
        trace_settings.TraceSettings(traces, member.broadcast),
        oip.Dialect(settings.server_name, mirrored=settings.typed_answers == "mirrored"),
        stream_max_in_flight=settings.stream_max_in_flight,
    )


def _response_cache(settings: InferenceSettings, stack: ExitStack, member: Membership) -> ResponseCache:
    store: AnswerStore = MemoryAnswers(settings.response_cache_bytes)
    if url := settings.response_cache_url.get_secret_value():
        from services.inference.caching.shared import SharedAnswers  # the client's import is not for everybody

        store = shared = SharedAnswers(url, timeout_ms=settings.response_cache_timeout_ms)
        shared.open()
    stack.callback(store.close)
    defaults = CacheDefaults(settings.response_cache_ttl_ms, settings.response_cache_max_answer_bytes)
    return ResponseCache(store, CacheStatistics(member.counters), defaults)


def _limits(settings: InferenceSettings) -> EngineLimits:
    return EngineLimits(
        max_in_flight=settings.max_in_flight,
        load_wait_s=settings.load_timeout_ms / 1000,
        max_batch_size=settings.max_batch_size,
        max_queue_size=settings.max_queue_size,
        parallel_runs=cpu_count(),
        runners=settings.runner_threads,
    )


def _runtimes(settings: InferenceSettings) -> dict[str, tuple[BuildRuntime, int]]:
    """Say how each framework's runtime is built, with the budget in bytes of its sessions.

    Imported where it is built: a runtime that nobody uses costs nothing.
    """

    def onnx() -> OnnxRuntime:
        from services.inference.runtimes.onnx_graphs import OptimisedGraphs
        from services.inference.runtimes.onnx_runtime import OnnxRuntime

        graphs = OptimisedGraphs(settings.cache_dir / "optimised", max_bytes=settings.optimised_cache_bytes)
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


def _sessions(settings: InferenceSettings, stack: ExitStack, member: Membership | None = None) -> SessionCaches:
    client = stack.enter_context(client_of(settings))
    artifacts = ArtifactCache(settings.cache_dir, RegistryFiles(client), max_bytes=settings.artifact_cache_bytes)
    artifacts.open()
    caches = {}
    for framework, (build_runtime, budget_bytes) in _runtimes(settings).items():
        loader = ModelLoader(artifacts, build_runtime)
        limits = SessionLimits(budget_bytes=budget_bytes, max_sessions=settings.max_sessions)
        caches[framework] = SessionCache(loader, limits, prepare=loader.runtime)
    sessions = SessionCaches(caches)
    stack.callback(sessions.close, settings.drain_grace_ms / 1000)
    watchdog = RunWatchdog(sessions, run_limit_s=settings.run_limit_ms / 1000)
    watchdog.open()
    stack.callback(watchdog.close)
    if member is not None:
        member.stuck = lambda: watchdog.stuck
    return sessions


def _spool(settings: InferenceSettings, stack: ExitStack) -> Spool[Event] | None:
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
    spool.open()
    stack.callback(spool.close, settings.drain_grace_ms / 1000)
    return spool


def _follow(
    settings: InferenceSettings, stack: ExitStack, catalog: Catalog, sessions: SessionCaches, member: Membership
) -> None:
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


if __name__ == "__main__":
    sys.exit(run("inference", sys.argv[1:], InferenceSettings, build))
