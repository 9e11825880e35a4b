"""Rows through the engine: good ones together, so that a bad one fails by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.api.inference.v1.prediction_jobs_pb2 import SingleInput
from services.common.errors import DomainError, Internal, InvalidArgument
from services.common.jobs import JobRun
from services.inference.features import from_features
from services.inference.jobs.held_events import HeldEvents
from services.inference.jobs.models import RowError, RowResult
from services.inference.jobs.rows import Row
from services.inference.models import ANY, Caller, ModelFailed, ResolvedVersion, Signature
from services.inference.prediction import Prediction, Predictor
from services.inference.tensor_protos import tensor_of
from services.inference.tensors import Tensor

Inputs = Mapping[str, Tensor]
BATCH_ROWS_DEFAULT = 256


@dataclass(frozen=True, slots=True)
class _Good:
    """A row that can be predicted, and its place."""

    place: int
    inputs: Inputs

    @property
    def shape(self) -> tuple[Any, ...]:
        """What rows that run together have in common."""
        return tuple((name, tensor.shape[1:]) for name, tensor in sorted(self.inputs.items()))


class RowPredictor:
    """Predicts the rows of one job with one version.

    Rows go together only where the version's rows are independent and all its tensors have a free first dimension; what
    fails together is halved until the row that did it stands alone. A fault that may pass is raised: the job comes back
    for the rows. Each prediction leaves its event in `events`, if there is such a thing.
    """

    def __init__(
        self,
        predictor: Predictor,
        version: ResolvedVersion,
        caller: Caller,
        run: JobRun,
        *,
        outputs: tuple[str, ...] = (),
        batch_rows: int = BATCH_ROWS_DEFAULT,
        events: HeldEvents | None = None,
    ) -> None:
        self._predictor = predictor
        self._version = version
        self._caller = caller
        self._run = run
        self._outputs = outputs
        self.events = events
        self.batch_rows = (version.serving.max_batch_size or batch_rows) if _joins(version) else 1
        self.inference_ms = 0.0

    def predict(self, rows: Sequence[Row]) -> list[RowResult]:
        """Give each row's result, in their order; see the class for what is raised."""
        results: list[RowResult | None] = [None] * len(rows)
        groups: dict[tuple[Any, ...], list[_Good]] = {}
        for place, row in enumerate(rows):
            try:
                good = _Good(place, _inputs_of(row, self._version.signature))
            except InvalidArgument as error:
                results[place] = RowResult({}, RowError(error.reason, error.message))
            else:
                groups.setdefault(good.shape, []).append(good)
        for group in groups.values():
            for start in range(0, len(group), self.batch_rows):
                batch = group[start : start + self.batch_rows]
                for good, result in zip(batch, self._predict(batch), strict=True):
                    results[good.place] = result
        return [result for result in results if result is not None]

    def predict_single(self, request: bytes) -> list[RowResult]:
        """Run one request as it came: a result for each of its rows, or one where its outputs are not by rows."""
        single = SingleInput.FromString(request)
        try:
            inputs = _single_inputs(single, self._version.signature)
            prediction = self._ask(inputs)
        except (InvalidArgument, ModelFailed) as error:
            return [RowResult({}, RowError(error.reason, error.message))]
        count = _row_count(inputs, self._version.signature)
        by_rows = all(array.ndim and array.shape[0] == count for array in prediction.outputs.values())
        return self._results(prediction, count if by_rows else 1, joined=by_rows)

    def _predict(self, batch: Sequence[_Good]) -> list[RowResult]:
        self._run.check()
        inputs = batch[0].inputs
        if len(batch) > 1:
            inputs = {name: np.concatenate([good.inputs[name] for good in batch]) for name in inputs}
        try:
            prediction = self._ask(inputs)
            return self._results(prediction, len(batch), joined=_joins(self._version))
        except (InvalidArgument, Internal) as error:
            self._run.check()  # its own end may be what the run stumbled over
            if len(batch) == 1:
                return [RowResult({}, RowError(error.reason, error.message))]
            if self.events is not None:
                self.events.forget_last()
        middle = len(batch) // 2
        return [*self._predict(batch[:middle]), *self._predict(batch[middle:])]

    def _ask(self, inputs: Inputs) -> Prediction:
        ends: list[Any] = []

        def on_cancel(callback: Any) -> bool:
            ends.append(callback)
            self._run.on_stop(callback)
            return True

        try:
            prediction = self._predictor.predict(
                self._version.model,
                self._version.version,
                lambda _: dict(inputs),
                self._caller,
                outputs=self._outputs,
                skip_cache=True,
                on_cancel=on_cancel,
            )
        except DomainError:
            self._run.check()
            raise
        finally:
            for callback in ends:
                self._run.forget(callback)
        self.inference_ms += prediction.latency_ms
        return prediction

    def _results(self, prediction: Prediction, count: int, *, joined: bool) -> list[RowResult]:
        inference_id = prediction.inference_id if self.events is not None else ""
        outputs = prediction.outputs
        if not joined:
            values = {name: _value(array[0] if array.shape[:1] == (1,) else array) for name, array in outputs.items()}
            return [RowResult(values, None, inference_id, 0)]
        for name, array in outputs.items():
            if array.shape[:1] != (count,):
                sentence = f"{count} rows went in, and output {name!r} came back with shape {list(array.shape)}"
                raise ModelFailed(sentence, reason="WRONG_ROW_COUNT")
        lists = {name: _value(array) for name, array in outputs.items()}
        return [
            RowResult({name: values[row] for name, values in lists.items()}, None, inference_id, row)
            for row in range(count)
        ]


def _joins(version: ResolvedVersion) -> bool:
    signature = version.signature
    specs = (*signature.inputs, *signature.outputs)
    return version.rows_independent and all(spec.shape[:1] == (ANY,) for spec in specs)


def _inputs_of(row: Row, signature: Signature) -> Inputs:
    if isinstance(row, RowError):
        raise InvalidArgument(row.message, reason=row.reason)
    inputs = from_features(row, signature)
    if (count := _row_count(inputs, signature)) != 1:
        raise InvalidArgument(f"{count} rows came in one record; write a record for each", reason="NOT_ONE_ROW")
    return inputs


def _single_inputs(single: SingleInput, signature: Signature) -> Inputs:
    if not single.tensors:
        return from_features(single.features, signature)
    only = signature.inputs[0].name if len(signature.inputs) == 1 else ""
    inputs: dict[str, Tensor] = {}
    for tensor in single.tensors:
        name = tensor.name or only
        if name in inputs:
            raise InvalidArgument.field(name, "this input came twice", reason="DUPLICATE_INPUT")
        inputs[name] = tensor_of(tensor)
    return inputs


def _row_count(inputs: Inputs, signature: Signature) -> int:
    first = signature.inputs[0] if signature.inputs else None
    by_rows = first is not None and first.shape[:1] == (ANY,)
    tensor = inputs.get(first.name) if first else None
    return int(tensor.shape[0]) if by_rows and tensor is not None and tensor.ndim else 1


def _value(array: Any) -> Any:
    """Give plain Python values; bytes become text, as JSON has no bytes."""
    values = array.tolist() if hasattr(array, "tolist") else array
    return _texts(values) if getattr(array, "dtype", np.dtype(object)).kind in "OSU" else values


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
