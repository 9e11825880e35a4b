"""The inference process: `python -m services.inference`. The only file that knows everything."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # With several workers this process becomes their supervisor, which has no use for all that follows.
    from services.inference.workers.supervisor import supervise

    supervise(sys.argv[1:])

from contextlib import ExitStack

import structlog

from services.common.keys import KeyRing
from services.common.process import run
from services.common.server import Server, is_loopback
from services.common.traces import Traces, open_traces
from services.inference import servicer
from services.inference.caching import servicer as caching
from services.inference.caching.answers import AnswerStore
from services.inference.caching.cache import CacheDefaults, CacheDesk, ResponseCache
from services.inference.caching.counts import CacheStatistics
from services.inference.caching.engine import CachingEngine
from services.inference.caching.memory import MemoryAnswers
from services.inference.caching.metrics import CacheCollector
from services.inference.composition import engine_limits, follow, open_lookups, open_sessions, open_spool
from services.inference.control import control, log_settings, trace_settings
from services.inference.control import servicer as control_servicer
from services.inference.engine.engine import Engine
from services.inference.engine.terms import within_threads
from services.inference.events.events import EventLog
from services.inference.following.catalog import Catalog
from services.inference.following.preloading import Preloader
from services.inference.generation.generator import TextGenerator
from services.inference.metrics import InferenceCollector
from services.inference.oip import servicer as oip
from services.inference.oip.repository import Repository
from services.inference.prediction import Predictor
from services.inference.settings import InferenceSettings
from services.inference.shared_memory import control as shared_memory
from services.inference.texts.attempts import TextRuns
from services.inference.texts.embed import TextEmbedder
from services.inference.texts.rank import ItemRanker
from services.inference.workers.membership import Membership, OnlyProcess

_log = structlog.get_logger(__name__)


def build(settings: InferenceSettings, stack: ExitStack, member: Membership | None = None) -> Server:
    """Open all that the server stands on; `stack` closes it in reverse. `member`: of several workers; None: alone."""
    member = member or OnlyProcess()
    keys = KeyRing(settings.keys_file)
    keys.open()
    metrics = member.metrics(settings)
    traces = open_traces("inference", settings, stack)
    catalog = Catalog()
    sessions = open_sessions(settings, stack, member)
    limits = within_threads(engine_limits(settings), settings.request_threads)
    engine = Engine(catalog, sessions, limits, member.counters)
    cache = _response_cache(settings, stack, member)
    spool = open_spool(settings, stack, member)
    events = EventLog(spool)
    predictor = Predictor(catalog, CachingEngine(engine, cache), events, open_lookups(settings, stack, member))
    generator = TextGenerator(catalog, engine, events)
    runs = TextRuns(catalog, CachingEngine(engine, cache), events, max_batch_size=settings.max_batch_size)
    follow(settings, stack, catalog, sessions, member)
    preloader = Preloader(catalog, sessions, settings.preload.split(","), load_wait_s=settings.load_timeout_ms / 1000)
    preloader.open()
    stack.callback(preloader.close)
    metrics.registry.register(InferenceCollector(engine, sessions, spool, member.counters))
    metrics.registry.register(CacheCollector(cache))
    desk = CacheDesk(cache, member.commands, member.broadcast)
    hands = control.SessionControl(catalog, member.broadcast, load_wait_s=settings.load_timeout_ms / 1000)
    control.SessionCommands(catalog, sessions, preloader).add_to(member.commands)
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
    regions = shared_memory.open_regions(
        enabled=settings.shared_memory,
        loopback=is_loopback(settings.host),
        max_place_bytes=settings.max_message_bytes,
    )
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
        workers=member.count,
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


if __name__ == "__main__":
    sys.exit(run("inference", sys.argv[1:], InferenceSettings, build))
