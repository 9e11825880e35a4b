"""A bad network between the services and PostgreSQL: cut in the middle of a call, deaf, slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from penstock import Client, Unavailable
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry_pb
from penstock.cli.embedded.health import is_serving
from penstock.monitoring import make_event
from penstock.retries import NO_RETRIES
from tests.embedded import eventually
from tests.faults.proxy import Proxy
from tests.services import CloneDatabase, Running, running_monitoring, running_registry
from tests.testdata import models

pytestmark = pytest.mark.slow
QUICK = {"database_statement_timeout_ms": 1_000, "database_pool_wait_ms": 500, "health_interval_ms": 100}
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Behind:
    """A registry and monitoring, each with PostgreSQL behind one proxy, and their databases by the back door."""

    def __init__(self, clone_database: CloneDatabase, folder: Path, stack: ExitStack) -> None:
        self.urls = {name: clone_database(name) for name in ("registry", "monitoring")}
        port = urlsplit(self.urls["registry"]).port
        assert port is not None
        self.proxy = stack.enter_context(Proxy(port))
        through = {name: url.replace(f":{port}/", f":{self.proxy.port}/") for name, url in self.urls.items()}
        self.registry: Running = stack.enter_context(running_registry(through["registry"], folder, **QUICK))
        self.monitoring: Running = stack.enter_context(running_monitoring(through["monitoring"], **QUICK))
        self.client = stack.enter_context(
            Client(registry=self.registry.address, monitoring=self.monitoring.address, retry=NO_RETRIES)
        )
        self.client.registry.register_version("tiny", "1", models.linear(), framework="onnx")
        list(self.client.monitoring.record_events([make_event("tiny")]))

    def all_serve(self) -> bool:
        return all(is_serving(service.address) for service in (self.registry, self.monitoring))

    def none_serves(self) -> bool:
        return not any(is_serving(service.address) for service in (self.registry, self.monitoring))

    def heal(self) -> None:
        """Let the network be good again, and wait until the services have noticed."""
        self.proxy.heal()
        eventually(self.answers)
        eventually(self.all_serve)

    def answers(self) -> bool:
        try:
            self.client.registry.get_model("tiny")
            self.client.monitoring.get_metrics("tiny")
        except Unavailable:
            return False
        return True

    @contextmanager
    def held_up(self, name: str, lock: str, call: Callable[[], Any]) -> Iterator[Future[Any]]:
        """Make a call that inside its transaction waits for a lock of ours, until the block ends."""
        with (
            psycopg.connect(self.urls[name]) as holder,
            psycopg.connect(self.urls[name], autocommit=True) as watcher,
            ThreadPoolExecutor(1) as caller,
        ):
            holder.execute(lock.encode())
            future = caller.submit(call)
            eventually(lambda: watcher.execute(WAITING).fetchone() == (1,))
            yield future
            holder.rollback()
            eventually(lambda: watcher.execute(WAITING).fetchone() == (0,))


@pytest.fixture
def behind(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Behind]:
    with ExitStack() as stack:
        yield Behind(clone_database, tmp_path, stack)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(Unavailable) as refused:
        call()
    return refused.value.reason


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.deafen])
def test_a_promotion_whose_database_goes_away_half_way_did_not_happen(
    behind: Behind, fault: Callable[[Proxy], None]
) -> None:
    registry = behind.client.registry

    def promote() -> registry_pb.PromoteVersionResponse:
        return registry.promote("tiny", "1", "candidate")

    with behind.held_up("registry", "SELECT 1 FROM registry.models FOR UPDATE", promote) as promotion:
        fault(behind.proxy)
        assert refusal(promotion.result) == "DATABASE_UNAVAILABLE"
    behind.heal()
    assert registry.get_version("tiny", "1").stage == registry_pb.STAGE_DEVELOPMENT
    moves = len(list(registry.transitions("tiny")))
    assert promote().version.stage == registry_pb.STAGE_CANDIDATE
    assert len(list(registry.transitions("tiny"))) == moves + 1


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.deafen])
def test_a_batch_whose_database_goes_away_half_way_is_stored_whole_when_it_is_sent_again(
    behind: Behind, fault: Callable[[Proxy], None]
) -> None:
    events = [make_event("tiny") for _ in range(100)]

    def send() -> list[int]:
        return [result.outcome for result in behind.client.monitoring.record_events(events)]

    with behind.held_up("monitoring", "LOCK TABLE monitoring.inferences IN EXCLUSIVE MODE", send) as sending:
        fault(behind.proxy)
        assert refusal(sending.result) == "DATABASE_UNAVAILABLE"
    behind.heal()
    assert behind.client.monitoring.get_metrics("tiny").inference_count == 1
    assert send() == [pb.EVENT_OUTCOME_STORED] * 100
    assert send() == [pb.EVENT_OUTCOME_DUPLICATE] * 100


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.deafen])
def test_while_the_database_is_away_calls_are_refused_and_health_says_so(
    behind: Behind, fault: Callable[[Proxy], None]
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: behind.client.registry.get_model("tiny"),
        lambda: behind.client.registry.register_version("tiny", "2", models.linear(), framework="onnx"),
        lambda: behind.client.monitoring.get_metrics("tiny"),
        lambda: list(behind.client.monitoring.record_events([make_event("tiny")])),
    ]
    fault(behind.proxy)
    assert [refusal(call) for call in calls] == ["DATABASE_UNAVAILABLE"] * len(calls)
    eventually(behind.none_serves)
    behind.heal()
    for call in calls:
        call()


def test_a_slow_database_is_waited_for(behind: Behind) -> None:
    behind.proxy.slow_down(0.02)
    assert behind.client.registry.register_version("tiny", "2", models.linear(), framework="onnx").version == "2"
    assert len(list(behind.client.monitoring.record_events([make_event("tiny")]))) == 1
    assert behind.all_serve()
