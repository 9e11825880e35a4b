"""Live profiles when PostgreSQL stops while a bucket is counted, or handed over by the rollups: nothing is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

import psycopg
import pytest

from penstock.ids import time_of
from services.common.errors import Unavailable
from services.monitoring.chores import Turn
from services.monitoring.profiles.live import floor
from services.monitoring.profiles.store import payloads
from tests.live_profiles import AGE_S, NEVER, iris, marks, recounts_of, rows, settled, store_of, turn
from tests.monitoring import eventually
from tests.postgres import PostgresServer
from tests.profiles import iris_events, serving
from tests.rollups import leave_to_the_test, lock_day, rollups

EVENTS = iris_events(age_s=AGE_S)


class _Stopping(Turn):
    """A turn in which PostgreSQL stops when the third slice of a bucket has been counted."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._left = 5  # one for the turn, one for the bucket

    def renew(self) -> bool:
        self._left -= 1
        if not self._left:
            self._server.stop()
        return True


@pytest.mark.slow
def test_postgres_stops_in_mid_recount_and_the_next_turn_counts_the_bucket_whole(
    own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "SLICE_EVENTS", 20)
    url = own_postgres_server.clone("monitoring")
    with psycopg.connect(url, autocommit=True) as connection:  # what is committed outlives a crash
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = on".encode())
    leave_to_the_test(url)
    bucket = floor(time_of(EVENTS[0].inference_id))
    with serving(url, **NEVER) as service, store_of(service) as store:
        made = iris(service)
        eventually(lambda: settled(service))
        service.record(*EVENTS)
        with rollups(url) as rolled, ThreadPoolExecutor(1) as pool:
            rolled.keep()
            with closing(psycopg.connect(url)) as blocker:
                lock_day(blocker, url, bucket)
                running = pool.submit(rolled.recount)
                eventually(lambda: locked(url) == 1)
                own_postgres_server.stop()  # while the rollups hand the bucket over
            with pytest.raises(Unavailable):
                running.result(60)
            own_postgres_server.start()
            assert (marks(service), rolled.marks()) == (0, 1)
            assert service.live(made.id).uncounted_buckets == [bucket]
            rolled.recount()
            assert (marks(service), rolled.marks()) == (1, 0)
        with pytest.raises(Unavailable):
            recounts_of(service, store).recount(_Stopping(own_postgres_server))
        own_postgres_server.start()
        assert (marks(service), rows(service, made)) == (1, 0)
        assert service.live(made.id).uncounted_buckets == [bucket]
        recounts_of(service, store).recount(turn())
        assert (marks(service), rows(service, made)) == (0, 150)
        assert service.live(made.id).uncounted_buckets == []
        assert service.live(made.id).to_time > datetime.now(UTC)


def locked(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return int((found.fetchone() or (0,))[0])
