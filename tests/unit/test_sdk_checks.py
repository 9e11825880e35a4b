"""Drift and quality checks, by request and in lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.monitoring.v1 import drift_pb2, quality_pb2
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)
AT = datetime(2026, 1, 1, tzinfo=UTC)
GONE = fail(errors.Unavailable("the database is gone"))
DRIFT = drift_pb2.DriftCheck(id="d", status=drift_pb2.DRIFT_STATUS_DRIFTED)
QUALITY = quality_pb2.QualityCheck(id="q", status=quality_pb2.QUALITY_STATUS_VIOLATED)
NOUNS = ("drift", "quality")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        server.on("CheckDrift", answer(drift_pb2.CheckDriftResponse(check=DRIFT)))
        server.on("GetDriftCheck", answer(drift_pb2.GetDriftCheckResponse(check=DRIFT)))
        server.on("ListDriftChecks", answer(drift_pb2.ListDriftChecksResponse(checks=[DRIFT] * 3)))
        server.on("CheckQuality", answer(quality_pb2.CheckQualityResponse(check=QUALITY)))
        server.on("GetQualityCheck", answer(quality_pb2.GetQualityCheckResponse(check=QUALITY)))
        server.on("ListQualityChecks", answer(quality_pb2.ListQualityChecksResponse(checks=[QUALITY] * 3)))
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


def of(client: Client, noun: str) -> Any:
    return getattr(client.monitoring, noun)


@pytest.mark.parametrize("noun", NOUNS)
def test_a_check_says_its_window(server: ScriptedServer, client: Client, noun: str) -> None:
    assert of(client, noun).check("iris", "1", to_time=AT, window=timedelta(hours=6)).id == noun[0]
    (request,) = server.calls[f"Check{noun.title()}"]
    assert (request.model, request.version) == ("iris", "1")
    assert request.from_time.ToDatetime(tzinfo=UTC) == AT - timedelta(hours=6)
    of(client, noun).check("iris", "1", to_time=AT, window="6h")
    assert server.calls[f"Check{noun.title()}"][-1] == request
    with pytest.raises(sdk.InvalidArgument, match="window: '6 hours' is no duration"):
        of(client, noun).check("iris", window="6 hours")
    of(client, noun).check("iris")
    request = server.calls[f"Check{noun.title()}"][-1]
    assert not request.HasField("from_time")
    assert not request.HasField("to_time")


@pytest.mark.parametrize("noun", NOUNS)
def test_a_check_is_made_twice_only_where_that_is_wanted(server: ScriptedServer, client: Client, noun: str) -> None:
    rpc = f"Check{noun.title()}"
    made = server._behaviours[rpc][0]
    server.on(rpc, GONE, made)
    with pytest.raises(sdk.Unavailable):
        of(client, noun).check("iris")
    server.on(rpc, GONE, made)
    assert of(client, noun).check("iris", retry=True).id == noun[0]


@pytest.mark.parametrize(("noun", "status"), [("drift", "drifted"), ("quality", "violated")])
def test_checks_are_found_and_listed(server: ScriptedServer, client: Client, noun: str, status: str) -> None:
    assert of(client, noun).get("id").id == noun[0]
    assert len(list(of(client, noun).list(model="iris", version="1", status=status, limit=2))) == 2
    (request,) = server.calls[f"List{noun.title()}Checks"]
    assert (request.model, request.version, request.status, request.page_size) == ("iris", "1", 2, 2)
    with pytest.raises(sdk.InvalidArgument, match="insufficient_data"):
        of(client, noun).list(status="bad")
