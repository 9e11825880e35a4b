from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import pytest

from services.common.errors import DeadlineExceeded, ResourceExhausted
from services.inference.engine.engine import Engine, EngineLimits
from services.inference.models import ModelFailed
from services.inference.sessions.sessions import SessionCache
from tests.serving import PlainLoader, Versions, plain_version

VERSION = plain_version("storyteller")


@pytest.fixture
def sessions() -> Iterator[SessionCache]:
    cache = SessionCache(PlainLoader())
    yield cache
    cache.close(60)


@pytest.fixture
def engine(sessions: SessionCache) -> Engine:
    return Engine(Versions(VERSION), sessions, EngineLimits(max_in_flight=1))


def in_flight(sessions: SessionCache) -> list[int]:
    return [info.in_flight for info in sessions.list_sessions()]


def test_work_that_is_not_one_run_holds_a_place_and_its_session(engine: Engine, sessions: SessionCache) -> None:
    with engine.track(VERSION) as work:
        assert work.session.size_bytes == 100
        assert in_flight(sessions) == [1]
        assert engine.statistics()[0].in_flight == 1
        with pytest.raises(ResourceExhausted, match="Exceeds maximum queue size"), engine.track(VERSION):
            pass
        work.row_count = 7
    counts = engine.statistics()[0]
    assert (counts.successes, counts.inferences, counts.in_flight) == (1, 7, 0)
    assert counts.failures == {"REJECTED": 1}
    assert in_flight(sessions) == [0]


def test_work_that_fails_is_counted_as_its_error_and_gives_everything_back(
    engine: Engine, sessions: SessionCache
) -> None:
    with pytest.raises(ModelFailed), engine.track(VERSION):
        raise ModelFailed("it lost the thread")
    assert engine.statistics()[0].failures == {"BACKEND": 1}
    assert in_flight(sessions) == [0]


def test_a_stream_that_is_left_half_way_counts_as_cancelled(engine: Engine, sessions: SessionCache) -> None:
    def tokens() -> Generator[str, None, None]:
        with engine.track(VERSION):
            yield "once"
            yield "upon"

    stream = tokens()
    assert next(stream) == "once"
    stream.close()
    assert engine.statistics()[0].failures == {"CANCELED": 1}
    assert in_flight(sessions) == [0]
    with engine.track(VERSION):
        pass


def test_work_past_its_deadline_loads_nothing(engine: Engine, sessions: SessionCache) -> None:
    with pytest.raises(DeadlineExceeded), engine.track(VERSION, deadline_ns=time.monotonic_ns() - 1):
        pass
    assert sessions.list_sessions() == []
    assert engine.statistics()[0].failures == {"REJECTED": 1}
