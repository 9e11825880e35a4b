"""How sure a classifier is: the highest class probability of each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.inference.models import Signature, TensorSpec
from services.inference.tensors import Tensor

FLOATS: Final = ("FP16", "BF16", "FP32", "FP64")
LABELS: Final = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BYTES")
# A softmax in single precision adds up to 1 within this.
TOLERANCE: Final = 1e-3


class Confidence:
    """Reads the confidence off a model's outputs.

    A model is a classifier if it gives a label a row (integers, booleans or strings, of rank 1 or [rows, 1]) and a
    floating-point [rows, classes] output, or if a floating-point [rows, classes] output is named for probabilities.
    Scores that are no probabilities (below 0 or above 1) give no confidence.
    """

    __slots__ = ("_output",)

    def __init__(self, signature: Signature) -> None:
        scores = [spec for spec in signature.outputs if spec.datatype in FLOATS and _is_matrix(spec)]
        labelled = any(_is_label(spec) for spec in signature.outputs)
        named = [spec for spec in scores if "prob" in spec.name.lower() or "softmax" in spec.name.lower()]
        found = named or (scores if labelled else [])
        self._output = found[0].name if found else None

    def read(self, outputs: Mapping[str, Tensor]) -> list[float]:
        """Give one confidence a row, each in 0 to 1; empty where the model is no classifier."""
        if self._output is None:
            return []
        scores = outputs.get(self._output)
        if scores is None or scores.ndim != 2 or scores.shape[1] < 2:
            return []
        # Plain lists: for the few rows of a request they are faster than numpy's reductions.
        confidences: list[float] = []
        for row in scores.tolist():
            highest = max(row)
            if not 0 <= highest <= 1 + TOLERANCE:
                return []
            confidences.append(min(highest, 1.0))
        return confidences


def _is_matrix(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and spec.shape[1] != 1


def _is_label(spec: TensorSpec) -> bool:
    flat = len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1)
    return spec.datatype in LABELS and flat
