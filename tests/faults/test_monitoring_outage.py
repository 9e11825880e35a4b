"""PostgreSQL away for long while predictions go on: the spool keeps their events, and each is stored once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg_pool
import pytest

from penstock import Client
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from services.common import postgres
from services.inference.events.delivery import DeliverySettings
from services.inference.events.events import MonitoringSender
from services.inference.events.spool import Spool, SpoolSettings
from services.monitoring.store import present
from tests.monitoring import eventually, new_event, serve
from tests.postgres import PostgresServer

SPOOL = SpoolSettings(
    segment_bytes=20_000,
    segment_age_s=0.2,
    delivery=DeliverySettings(batch_records=50, linger_s=0.01, backoff_s=0.01, max_backoff_s=0.1),
)
TIRED_OF = 12
"""Calls that failed: the pauses between them have been at their bound for long."""


class Feeder:
    """Predicts on and on: appends an event every few milliseconds, and remembers their ids."""

    def __init__(self, spool: Spool[pb.InferenceEvent]) -> None:
        self.ids: list[str] = []
        self._spool = spool
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _feed(self) -> None:
        while not self._stopping.wait(0.003):
            event = new_event()
            self._spool.append(event)
            self.ids.append(event.inference_id)

    def wait_for_more(self, count: int) -> None:
        wanted = len(self.ids) + count
        eventually(lambda: len(self.ids) >= wanted)


@pytest.mark.slow
def test_postgres_stopped_for_long_in_mid_ingest_and_each_event_is_stored_once(
    own_postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute's outage in seconds: what gives up, pauses or looks again in the course of a minute does so sooner here.

    In order: a call's wait for a connection (2 s, here 0.1), the reading of the database's clock (5 s, here 0.1), the
    pool's reconnecting (given up after 30 s, here 0.5), and the spool's pauses (up to 30 s, here 0.1). PostgreSQL comes
    back only when all of these have passed, the last of them several times.
    """
    given_up = threading.Event()

    def hasty_pool(*arguments: Any, **settings: Any) -> psycopg_pool.ConnectionPool[Any]:
        hasty = {"reconnect_timeout": 0.5, "reconnect_failed": lambda _: given_up.set()}
        return psycopg_pool.ConnectionPool(*arguments, **{**settings, **hasty})

    monkeypatch.setattr(postgres, "ConnectionPool", hasty_pool)
    monkeypatch.setattr(present, "REREAD_S", 0.1)
    url = own_postgres_server.clone("monitoring")
    with serve(url, database_pool_wait_ms=100) as monitoring, Client(monitoring=monitoring.address) as client:
        spool = Spool[pb.InferenceEvent](tmp_path, encode, MonitoringSender(client), SPOOL)
        spool.open()
        with Feeder(spool) as feeder:
            eventually(lambda: spool.status.delivery.delivered > 200)
            own_postgres_server.stop()
            feeder.wait_for_more(500)
            eventually(lambda: spool.status.delivery.failed_calls >= TIRED_OF and given_up.is_set(), within_s=60)
            assert "monitoring did not answer" in spool.status.delivering
            own_postgres_server.start()
            eventually(lambda: spool.status.delivering == "", within_s=60)
            feeder.wait_for_more(100)
        assert spool.close(60)
        assert (spool.status.dropped, spool.status.delivery.rejected, spool.status.delivery.corrupt) == (0, 0, 0)
        stored = monitoring.query("SELECT inference_id::text FROM monitoring.inferences ORDER BY inference_id")
        assert [inference_id for (inference_id,) in stored] == sorted(feeder.ids)
        assert monitoring.query("SELECT count(*) FROM monitoring.quarantined_events") == [(0,)]
        assert list(tmp_path.rglob("*.seg")) == [], "nothing is left to be sent again"


def encode(event: pb.InferenceEvent) -> bytes:
    return event.SerializeToString()
