"""Rows through the engine: who goes together, and what one bad row costs the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from penstock.api.inference.v1.prediction_jobs_pb2 import SingleInput
from penstock.values import to_struct
from services.common.errors import Unavailable
from services.common.jobs import JobRun, Progress, Stopped, StopReason
from services.inference.events.events import Event
from services.inference.jobs.batches import RowPredictor
from services.inference.jobs.held_events import HeldEvents
from services.inference.jobs.models import Done, RowError, RowResult
from services.inference.jobs.work import WorkLimits, _Attempt
from services.inference.models import Caller, ModelFailed, ResolvedVersion, ServingSettings, Signature, TensorSpec
from services.inference.prediction import Prediction, Predictor
from services.inference.tensors import Tensor

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
VERSION = ResolvedVersion("sums", "1", 1, "onnx", "production", SIGNATURE, rows_independent=True)
Model = Callable[[Tensor], Tensor]


class Running:
    """A run that goes on until it is told to end."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None

    def check(self) -> None:
        if self.reason:
            raise Stopped(self.reason)

    def on_stop(self, callback: Callable[[], None]) -> None: ...

    def forget(self, callback: Callable[[], None]) -> None: ...

    def report(self, progress: Progress) -> None: ...


class Sums:
    """A predictor whose model adds a row up, and fails where a row has a 13."""

    def __init__(self, model: Model | None = None) -> None:
        self.asked: list[list[list[float]]] = []
        self.events = HeldEvents(self, max_events=3)
        self.told: list[str] = []
        self._model = model or (lambda x: x.sum(axis=1))

    def predict(self, model: str, version: str, read_inputs: Any, caller: Caller, **_: Any) -> Prediction:
        x = read_inputs(SIGNATURE)["x"]
        self.asked.append(x.tolist())
        self.events.append(Event(f"id-{len(self.asked)}", model, caller))  # of the failed ones too
        if (x == 13).any():
            raise ModelFailed("it does not like 13")
        if (x == 14).any():
            raise Unavailable("not now")
        return Prediction(f"id-{len(self.asked)}", VERSION, {"y": self._model(x)}, [], 1.5)

    def append(self, event: Event) -> None:
        self.told.append(event.inference_id)


def predicting(sums: Sums, version: ResolvedVersion = VERSION, *, batch_rows: int = 8, run: Any = None) -> RowPredictor:
    run = run or Running()
    return RowPredictor(
        cast("Predictor", sums), version, Caller(), cast("JobRun", run), batch_rows=batch_rows, events=sums.events
    )


def rows(*values: float) -> list[Any]:
    return [to_struct({"x": [value, 0.5]}) for value in values]


def said(results: Sequence[RowResult]) -> list[Any]:
    return [result.error.reason if result.error else result.outputs["y"] for result in results]


def test_rows_go_together_up_to_a_batch_and_come_back_in_their_order() -> None:
    sums = Sums()
    predictor = predicting(sums, batch_rows=3)
    assert said(predictor.predict(rows(1, 2, 3, 4))) == [1.5, 2.5, 3.5, 4.5]
    assert [len(asked) for asked in sums.asked] == [3, 1]
    assert predictor.inference_ms == 3.0


def test_each_row_knows_its_inference_and_its_place_in_it() -> None:
    results = predicting(Sums(), batch_rows=2).predict(rows(1, 2, 3))
    assert [(each.inference_id, each.inference_row) for each in results] == [("id-1", 0), ("id-1", 1), ("id-2", 0)]


def test_one_row_that_the_model_fails_on_fails_alone() -> None:
    sums = Sums()
    results = predicting(sums).predict(rows(1, 2, 13, 4, 5, 6, 7, 8))
    assert said(results) == [1.5, 2.5, "MODEL_FAILED", 4.5, 5.5, 6.5, 7.5, 8.5]
    assert len(sums.asked) == 7, "halved, and not one by one"
    assert not sums.told, "nothing is told before the rows are safe"
    sums.events.release()
    assert sums.told == ["id-3", "id-5", "id-6", "id-7"], "what was asked again in halves does not count too"
    assert sums.events.size_bytes == 0


def test_rows_that_cannot_be_read_never_reach_the_model() -> None:
    sums = Sums()
    bad: list[Any] = [RowError("MALFORMED_ROW", "no"), to_struct({"x": "text"}), to_struct({"x": [[1, 2], [3, 4]]})]
    results = predicting(sums).predict([*rows(1), *bad, *rows(2)])
    assert said(results) == [1.5, "MALFORMED_ROW", "DATATYPE_MISMATCH", "NOT_ONE_ROW", 2.5]
    assert sums.asked == [[[1, 0.5], [2, 0.5]]]


@pytest.mark.parametrize(
    "version",
    [
        replace(VERSION, rows_independent=False),
        replace(VERSION, signature=Signature(SIGNATURE.inputs, (TensorSpec("y", "FP32", (1,)),))),
    ],
)
def test_rows_that_hang_together_or_have_no_free_dimension_go_one_by_one(version: ResolvedVersion) -> None:
    sums = Sums()
    assert said(predicting(sums, version).predict(rows(1, 2, 3))) == [1.5, 2.5, 3.5]
    assert [len(asked) for asked in sums.asked] == [1, 1, 1]


def test_a_versions_own_batch_size_goes_before_the_setting() -> None:
    sums = Sums()
    predicting(sums, replace(VERSION, serving=ServingSettings(max_batch_size=2))).predict(rows(1, 2, 3))
    assert [len(asked) for asked in sums.asked] == [2, 1]


def test_a_model_that_gives_another_number_of_rows_fails_them() -> None:
    results = predicting(Sums(lambda x: np.zeros(len(x) + 1, np.float32))).predict(rows(1, 2))
    assert said(results) == ["WRONG_ROW_COUNT", "WRONG_ROW_COUNT"]


def test_a_fault_that_may_pass_is_the_jobs_and_no_rows() -> None:
    with pytest.raises(Unavailable):
        predicting(Sums()).predict(rows(1, 14, 2))


def test_a_run_that_is_told_to_end_predicts_no_further_batch() -> None:
    run, sums = Running(), Sums()
    run.reason = StopReason.CANCELLED
    with pytest.raises(Stopped):
        predicting(sums, run=run).predict(rows(1))
    assert sums.asked == []


def test_one_request_gives_a_row_for_each_of_its_rows_or_one_for_all() -> None:
    request = SingleInput(features=to_struct({"x": [[1, 2], [3, 4]]})).SerializeToString()
    assert said(predicting(Sums()).predict_single(request)) == [3.0, 7.0]
    assert said(predicting(Sums(lambda x: x.sum())).predict_single(request)) == [10.0]
    bad = SingleInput(features=to_struct({"z": 1})).SerializeToString()
    assert said(predicting(Sums()).predict_single(bad)) == ["MISSING_INPUT"]


def test_rows_are_made_safe_before_their_events_are_more_than_the_queue_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bursts: list[int] = []

    def make_safe(attempt: Any, predictor: RowPredictor) -> None:
        attempt._waiting.clear()
        cast("HeldEvents", predictor.events).release()
        bursts.append(len(sums.told) - sum(bursts))

    monkeypatch.setattr(_Attempt, "_make_safe", make_safe)
    none, sums = cast("Any", None), Sums()
    predictor = predicting(sums, replace(VERSION, rows_independent=False))
    limits = WorkLimits(none, batch_rows=8, chunk_rows=5_000, chunk_s=1_000, held_events=3, max_result_bytes=1)
    spec = cast("Any", SimpleNamespace(max_failed_rows=None))
    attempt = _Attempt(cast("JobRun", Running()), spec, none, limits, None, Done(), none)
    for number in range(10):
        attempt.take(predictor.predict(rows(number)), predictor)
    assert bursts == [3, 3, 3]
