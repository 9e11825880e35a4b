from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.inference.engine.engine import Engine, EngineLimits, InferenceAnswer, InferenceRequest
from services.inference.models import ModelFailed, ServingSettings, Signature, TensorSpec
from services.inference.sessions.cached_session import SessionLimits
from services.inference.sessions.sessions import SessionCache
from tests.serving import BlobShelf, PlainLoader, Versions, onnx_loader, plain_version, wait_until
from tests.testdata import models

X = {"x": np.ones((2, 4), np.float32)}
EMBEDDING = Signature((TensorSpec("ids", "INT64", (-1, -1)),), (TensorSpec("vectors", "FP32", (-1, -1, 4)),))
UNRUNNABLE = Signature(
    (TensorSpec("x", "FP32", (-1, 7)), TensorSpec("shape", "INT64", (2,))), (TensorSpec("y", "FP32", (-1, -1)),)
)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[SessionCache]:
    cache = SessionCache(onnx_loader(SHELF, tmp_path))
    yield cache
    cache.close(60)


SHELF = BlobShelf()


@pytest.fixture
def resolver() -> Versions:
    return Versions(
        SHELF.version({"model.onnx": models.linear()}),
        SHELF.version({"model.onnx": models.embedding()}, model="words", signature=EMBEDDING),
        SHELF.version({"model.onnx": models.unrunnable()}, model="broken", signature=UNRUNNABLE),
        SHELF.version({"model.onnx": models.unending()}, model="endless"),
        SHELF.version({"model.onnx": models.unending()}, model="narrow", serving=ServingSettings(max_in_flight=1)),
    )


@pytest.fixture
def engine(resolver: Versions, sessions: SessionCache) -> Engine:
    return Engine(resolver, sessions)


def test_a_request_is_answered_with_whole_tensors_and_its_timings(engine: Engine) -> None:
    answer = engine.infer(InferenceRequest("iris", "", X))
    assert answer.error is None
    assert answer.outputs["y"].shape == (2, 3)
    assert answer.version is not None
    assert answer.version.version == "1.0.0"
    assert answer.row_count == 2
    timings = answer.timings
    parts = (timings.queue_ns, timings.compute_input_ns, timings.compute_infer_ns, timings.compute_output_ns)
    assert all(part > 0 for part in parts)
    assert sum(parts) <= timings.total_ns


def test_the_statistics_count_rows_runs_and_nanoseconds(engine: Engine) -> None:
    answers = [engine.infer(InferenceRequest("iris", "", X)) for _ in range(3)]
    (counts,) = engine.statistics()
    assert (counts.successes, counts.executions, counts.inferences, counts.failed) == (3, 3, 6, 0)
    assert counts.success_ns == sum(answer.timings.total_ns for answer in answers)
    assert counts.compute_infer_ns == sum(answer.timings.compute_infer_ns for answer in answers)
    assert counts.batches[2].executions == 3
    assert abs(counts.last_inference_ms - time.time() * 1000) < 60_000
    assert counts.in_flight == 0
    engine.infer(InferenceRequest("iris", "", X))
    assert counts.batches[2].executions == 3, "a snapshot stays as it was"


def test_only_the_outputs_asked_for_are_given(engine: Engine) -> None:
    answer = engine.infer(InferenceRequest("iris", "", X, outputs=("y",)))
    assert list(answer.outputs) == ["y"]
    refused = engine.infer(InferenceRequest("iris", "", X, outputs=("z",)))
    assert isinstance(refused.error, InvalidArgument)
    assert refused.error.reason == "UNKNOWN_OUTPUT"


def test_an_unknown_model_is_not_found_and_leaves_no_statistics(engine: Engine) -> None:
    answer = engine.infer(InferenceRequest("nobody", "", X))
    assert isinstance(answer.error, NotFound)
    assert answer.version is None
    assert engine.statistics() == []


def test_a_bad_input_loads_no_model(engine: Engine, sessions: SessionCache) -> None:
    answer = engine.infer(InferenceRequest("iris", "", {"x": np.ones((2, 5), np.float32)}))
    assert isinstance(answer.error, InvalidArgument)
    assert answer.version is not None
    assert sessions.list_sessions() == []
    assert engine.statistics()[0].failures == {"OTHER": 1}


def test_what_the_model_refuses_and_what_breaks_it_are_told_apart(engine: Engine) -> None:
    refused = engine.infer(InferenceRequest("words", "", {"ids": np.array([[99]])}))
    assert isinstance(refused.error, InvalidArgument)
    inputs = {"x": np.ones((1, 7), np.float32), "shape": np.array([5, 5])}
    broken = engine.infer(InferenceRequest("broken", "", inputs))
    assert isinstance(broken.error, ModelFailed)
    assert [counts.failures for counts in engine.statistics()] == [{"OTHER": 1}, {"BACKEND": 1}]


def test_a_request_past_its_deadline_is_not_run(engine: Engine, sessions: SessionCache) -> None:
    answer = engine.infer(InferenceRequest("iris", "", X, deadline_ns=time.monotonic_ns() - 1))
    assert isinstance(answer.error, DeadlineExceeded)
    assert "Request timeout expired" in str(answer.error)
    assert sessions.list_sessions() == []
    assert engine.statistics()[0].failures == {"REJECTED": 1}


def test_a_request_in_time_is_run(engine: Engine) -> None:
    assert engine.infer(InferenceRequest("iris", "", X, deadline_ns=time.monotonic_ns() + 10**11)).error is None


def test_a_cancelled_request_is_dropped(engine: Engine, sessions: SessionCache) -> None:
    request = InferenceRequest("iris", "", X)
    request.cancel()
    assert isinstance(engine.infer(request).error, Cancelled)
    assert sessions.list_sessions() == []
    assert engine.statistics()[0].failures == {"CANCELED": 1}


def test_a_request_cancelled_while_its_model_loads_is_not_run() -> None:
    loader = PlainLoader()
    loader.gate.clear()
    sessions = SessionCache(loader)
    engine = Engine(Versions(plain_version("a")), sessions)
    request = InferenceRequest("a", "", X)
    answers: list[InferenceAnswer] = []
    thread = threading.Thread(target=lambda: answers.append(engine.infer(request)))
    thread.start()
    wait_until(lambda: loader.began == 1)
    request.cancel()
    loader.gate.set()
    thread.join(60)
    assert isinstance(answers[0].error, Cancelled)
    assert sessions.list_sessions()[0].in_flight == 0
    sessions.close(60)


def test_a_version_that_is_resolved_already_is_not_resolved_again(sessions: SessionCache) -> None:
    version = SHELF.version({"model.onnx": models.linear()}, model="elsewhere")
    answer = Engine(Versions(), sessions).infer(InferenceRequest("elsewhere", "", X, resolved=version))
    assert answer.error is None


def occupy(engine: Engine, model: str) -> InferenceAnswer:
    return engine.infer(InferenceRequest(model, "", {"x": np.ones((1, 4), np.float32)}))


@pytest.mark.parametrize(("model", "limit"), [("endless", 2), ("narrow", 1)], ids=["the server's", "its own"])
def test_one_models_requests_in_flight_are_capped_and_the_others_go_on(
    resolver: Versions, sessions: SessionCache, model: str, limit: int
) -> None:
    engine = Engine(resolver, sessions, EngineLimits(max_in_flight=2))
    with ThreadPoolExecutor(limit) as pool:
        running = [pool.submit(occupy, engine, model) for _ in range(limit)]
        wait_until(lambda: bool(engine.statistics()) and engine.statistics()[0].in_flight == limit)
        refused = occupy(engine, model)
        assert isinstance(refused.error, ResourceExhausted)
        assert refused.error.reason == "QUEUE_FULL"
        assert "Exceeds maximum queue size" in str(refused.error)
        assert engine.infer(InferenceRequest("iris", "", X)).error is None
        while not all(future.done() for future in running):
            sessions.terminate_runs(longer_than_s=0)
        assert all(isinstance(future.result().error, ModelFailed) for future in running)
    counts = engine.statistics()[0]
    assert counts.failures == {"REJECTED": 1, "BACKEND": limit}
    assert counts.in_flight == 0


def test_done_is_called_once_for_every_request_whatever_became_of_it(engine: Engine) -> None:
    requests = [
        InferenceRequest("iris", "", X),
        InferenceRequest("nobody", "", X),
        InferenceRequest("iris", "", {}),
        InferenceRequest("iris", "", None),  # type: ignore[arg-type]  # a defect in a front door
    ]
    for request in requests:
        answers: list[InferenceAnswer] = []
        engine.submit(request, answers.append)
        wait_until(lambda answers=answers: len(answers) == 1)  # type: ignore[misc]
    assert isinstance(answers[0].error, AttributeError)


def test_a_request_that_is_over_makes_room_for_the_next_however_it_ended(
    resolver: Versions, sessions: SessionCache
) -> None:
    engine = Engine(resolver, sessions, EngineLimits(max_in_flight=1))
    for inputs in (X, {}, X):
        error = engine.infer(InferenceRequest("iris", "", inputs)).error
        assert not isinstance(error, ResourceExhausted)


def test_a_caller_that_fails_to_take_its_answer_harms_nobody(engine: Engine) -> None:
    def fail(_: InferenceAnswer) -> None:
        raise RuntimeError("the caller broke")

    engine.submit(InferenceRequest("iris", "", X), fail)
    assert engine.infer(InferenceRequest("iris", "", X)).error is None
    assert engine.statistics()[0].in_flight == 0


def test_a_version_that_is_registered_anew_with_other_bytes_takes_its_namesakes_place(sessions: SessionCache) -> None:
    engine = Engine(Versions(), sessions)
    for seed in (1, 2):
        version = SHELF.version({"model.onnx": models.linear(seed=seed)}, model="anew")
        assert engine.infer(InferenceRequest("anew", "", X, resolved=version)).error is None
    (counts,) = engine.statistics()
    assert counts.version.key == version.key


def test_a_model_over_the_budget_is_refused_and_the_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.sessions.sessions.resident_bytes", lambda: 0)
    small = SHELF.version({"model.onnx": models.linear()}, model="small")
    content = models.embedding()
    big = SHELF.version({"model.onnx": content, "padding": b"0" * 10_000}, model="big", signature=EMBEDDING)
    limits = SessionLimits(budget_bytes=small.size_bytes + 5_000)
    sessions = SessionCache(onnx_loader(SHELF, tmp_path), limits)
    engine = Engine(Versions(small, big), sessions)
    assert engine.infer(InferenceRequest("small", "", X)).error is None
    refused = engine.infer(InferenceRequest("big", "", {"ids": np.array([[1]])})).error
    assert isinstance(refused, ResourceExhausted)
    assert refused.reason == "SESSION_BUDGET_EXCEEDED"
    assert engine.infer(InferenceRequest("small", "", X)).error is None
    assert sessions.counters.loads == 1, "nobody was evicted in vain"
    sessions.close(60)
