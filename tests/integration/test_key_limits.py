"""Limits per key, over a real socket: who is over them is refused or slowed down, and nobody else notices."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as files
from penstock.api.status.v1.status_pb2 import RetryInfo
from services.common import budgets, keys
from tests.kit import Kit, bearing, details, eventually, failure, write_keys


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "RELOAD_INTERVAL_S", 0.01)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Kit]:
    limits: dict[str, dict[str, object]] = {
        "few": {"requests_per_minute": 3},
        "small": {"bytes_per_minute": 30_000},
    }
    write_keys(tmp_path / "keys.json", limits, few="operator", small="operator", free="operator")
    with Kit(tmp_path, keys_file=tmp_path / "keys.json").running() as running:
        yield running


def ask(kit: Kit, name: str, model: str = "iris") -> int:
    return kit.stub.GetMetrics(pb.GetMetricsRequest(model=model), metadata=bearing(name), timeout=60).inference_count


def metrics_page(kit: Kit) -> str:
    url = f"http://127.0.0.1:{kit.server.metrics_port}/metrics"
    return str(urllib.request.urlopen(url, timeout=60).read().decode())


def wait_of(refused: grpc.Call) -> float:
    delay: Duration = RetryInfo.FromString(details(refused)[0].details[-1].value).retry_delay
    return delay.ToNanoseconds() / 1e9


def test_the_request_over_the_limit_is_refused_and_other_keys_are_not(limited: Kit) -> None:
    for _ in range(3):
        assert ask(limited, "few") == 4
    refused = failure(lambda: ask(limited, "few"))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(refused)[1].reason == "REQUEST_LIMIT"
    assert details(refused)[1].metadata["retryable"] == "true"
    assert 0 < wait_of(refused) <= 20
    assert ask(limited, "free") == 4


@pytest.mark.parametrize(("asked", "answered"), [(31_000, 4), (4, 31_000)], ids=["request", "answer"])
def test_bytes_count_both_ways_and_the_call_after_is_refused(limited: Kit, asked: int, answered: int) -> None:
    limited.servicer.answer_bytes = answered
    request = pb.GetInferenceRequest(inference_id="x" * asked)
    answer = limited.stub.GetInference(request, metadata=bearing("small"), timeout=60)
    assert len(answer.inference.event.model) == answered
    refused = failure(lambda: ask(limited, "small"))
    assert details(refused)[1].reason == "BYTE_LIMIT"
    assert 0 < wait_of(refused) <= 60 / 30_000 * 31_100


def test_what_fails_counts_too(limited: Kit) -> None:
    def fail() -> None:
        raise RuntimeError

    limited.servicer.get_metrics = fail
    for _ in range(3):
        assert failure(lambda: ask(limited, "few")).code() is grpc.StatusCode.INTERNAL
    assert details(failure(lambda: ask(limited, "few")))[1].reason == "REQUEST_LIMIT"


def test_reading_the_file_again_refills_nothing(limited: Kit, tmp_path: Path) -> None:
    for _ in range(3):
        ask(limited, "few")
    write_keys(tmp_path / "keys.json", {"few": {"requests_per_minute": 3}}, few="operator", late="viewer")
    eventually(lambda: works(limited, "late"))
    assert details(failure(lambda: ask(limited, "few")))[1].reason == "REQUEST_LIMIT"
    write_keys(tmp_path / "keys.json", {"few": {"requests_per_minute": 100}}, few="operator")
    eventually(lambda: works(limited, "few"))


def works(kit: Kit, name: str) -> bool:
    try:
        return ask(kit, name) == 4
    except grpc.RpcError:
        return False


def test_each_message_of_a_two_way_stream_counts(limited: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.streams.MAX_PAUSE_S", 0.0)
    requests = iter([pb.RecordEventsRequest(batch_id=number) for number in range(1, 9)])
    answers = limited.stub.RecordEvents(requests, metadata=bearing("few"), timeout=60)
    assert [next(answers).batch_id, next(answers).batch_id] == [1, 2]  # the third was spent on the call itself
    assert details(failure(lambda: next(answers)))[1].reason == "REQUEST_LIMIT"


class StandingBudget(budgets.Budget):
    """One whose clock stands while bytes travel, however long that takes here, and goes on by a minute at a pause."""

    def __init__(self, name: str, rates: budgets.Rates) -> None:
        self.minutes = 0
        super().__init__(name, rates, clock=lambda: self.minutes * 60.0)

    def paused(self, seconds: float) -> None:
        self.minutes += 1
        super().paused(seconds)


def test_an_upload_over_its_bytes_is_slowed_down_and_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = StandingBudget("broad", budgets.Rates(bytes_per_minute=600_000))
    monkeypatch.setattr(keys, "budget_of", lambda *_: budget)
    write_keys(tmp_path / "keys.json", broad="operator")
    chunk = files.RegisterVersionRequest(chunk=bytes(100_000))
    with Kit(tmp_path, keys_file=tmp_path / "keys.json").running() as kit:
        kit.uploads.RegisterVersion(iter([chunk] * 8), metadata=bearing("broad"), timeout=60)
        assert kit.files.stored == 1
        assert budget.minutes == 1
        paused = re.search(r'^penstock_key_paused_seconds_total\{key="broad"\} (\S+)$', metrics_page(kit), re.MULTILINE)
    assert paused
    assert float(paused[1]) > 0


def test_an_upload_that_would_stand_still_is_refused(limited: Kit) -> None:
    chunk = files.RegisterVersionRequest(chunk=bytes(100_000))
    refused = failure(lambda: limited.uploads.RegisterVersion(iter([chunk] * 3), metadata=bearing("small"), timeout=60))
    assert details(refused)[1].reason == "BYTE_LIMIT"
    assert wait_of(refused) > budgets.MAX_PAUSE_S
    assert limited.files.stored == 0


def test_a_download_over_its_bytes_ends_with_the_limit(limited: Kit) -> None:
    answers = limited.uploads.DownloadFile(files.DownloadFileRequest(), metadata=bearing("small"), timeout=60)
    assert details(failure(lambda: list(answers)))[1].reason == "BYTE_LIMIT"


def test_a_slowed_stream_leaves_at_once_with_its_client(limited: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.streams.MAX_PAUSE_S", 1e9)
    hold = threading.Event()

    def chunks() -> Iterator[files.RegisterVersionRequest]:
        yield files.RegisterVersionRequest(chunk=bytes(1_000_000))
        hold.wait(60)

    call = limited.uploads.RegisterVersion.future(chunks(), metadata=bearing("small"), timeout=60)
    eventually(lambda: limited.files.reached.is_set())
    call.cancel()
    hold.set()
    assert limited.files.ended.wait(60)
    assert limited.files.stored == 0


def test_health_and_reflection_have_no_limit(limited: Kit) -> None:
    for _ in range(10):
        limited.health.Check(health_pb2.HealthCheckRequest(), metadata=bearing("few"), timeout=60)
        stub = reflection_pb2_grpc.ServerReflectionStub(limited.channel)
        ask_names = reflection_pb2.ServerReflectionRequest(list_services="")
        assert next(stub.ServerReflectionInfo(iter([ask_names]), metadata=bearing("few"), timeout=60))
    assert ask(limited, "few") == 4


def test_refusals_are_counted_by_key_and_reason(limited: Kit) -> None:
    for _ in range(3):
        ask(limited, "few")
    for _ in range(2):
        failure(lambda: ask(limited, "few"))
    page = metrics_page(limited)
    assert 'penstock_key_refused_total{key="few",reason="REQUEST_LIMIT"} 2.0' in page
    assert 'key="free"' not in page
