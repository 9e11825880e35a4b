"""Exports while PostgreSQL goes away: the reader hears of it, and no half file is taken for a whole one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import penstock as sdk
from penstock.api.monitoring.v1 import monitoring_pb2
from tests.monitoring import Monitoring, answered, eventually, new_event, serve
from tests.postgres import PostgresServer

pytestmark = pytest.mark.slow
EVENTS = 40
EVENT_CHARS = 700_000
"""All of them are more than both sides' buffers hold: the export is still under way when its first bytes come."""


def record_large(monitoring: Monitoring) -> None:
    noise, text = np.random.default_rng(1), monitoring_pb2.Payload()
    for age_s in range(EVENTS):
        text.fields.update({"text": noise.bytes(EVENT_CHARS // 2).hex()})
        monitoring.record(new_event(age_s=age_s, features=text))


def test_a_database_that_stops_in_mid_export_leaves_no_half_file_and_later_a_whole_one(
    own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = own_postgres_server.clone("monitoring")
    with (
        serve(url) as monitoring,
        sdk.Client(monitoring=monitoring.address, retry=sdk.RetryPolicy(attempts=1)) as client,
    ):
        record_large(monitoring)
        came: list[int] = []

        def stop(written_bytes: int) -> None:
            if not came:
                own_postgres_server.stop()
            came.append(written_bytes)

        file = tmp_path / "events.csv"
        with pytest.raises(sdk.Unavailable):
            client.monitoring.exports.events("iris", file, payloads=True, progress=stop)
        assert 0 < came[-1] < EVENTS * EVENT_CHARS, "it broke half-way"
        assert list(tmp_path.iterdir()) == [], "half a file would be taken for all there is"
        own_postgres_server.start()
        eventually(lambda: answered(monitoring.metrics))  # who lost the database pauses before each new try
        client.monitoring.exports.events("iris", file, payloads=True)
        csv.field_size_limit(2 * EVENT_CHARS)
        with file.open(newline="") as lines:
            assert len(list(csv.DictReader(lines))) == EVENTS
