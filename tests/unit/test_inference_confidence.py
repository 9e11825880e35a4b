"""The confidence: the highest class probability of each row, and nothing where the model is no classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.inference.confidence import Confidence
from services.inference.models import Signature, TensorSpec
from services.inference.tensors import Tensor


def signature(*outputs: tuple[str, str, tuple[int, ...]]) -> Signature:
    return Signature((), tuple(TensorSpec(*output) for output in outputs))


CLASSIFIER = signature(("label", "INT64", (-1,)), ("scores", "FP32", (-1, 3)))


def scores(*rows: Any) -> dict[str, Tensor]:
    return {"scores": np.array(rows, dtype=np.float32)}


def test_a_classifier_has_one_confidence_a_row() -> None:
    found = Confidence(CLASSIFIER).read(scores([0.2, 0.7, 0.1], [0.5, 0.25, 0.25]))
    assert found == pytest.approx([0.7, 0.5])


def test_probabilities_are_known_by_name_without_a_label() -> None:
    softmax = signature(("softmax_output", "FP32", (-1, -1)))
    assert Confidence(softmax).read({"softmax_output": np.array([[0.9, 0.1]])}) == pytest.approx([0.9])


@pytest.mark.parametrize(
    "outputs",
    [
        (("embedding", "FP32", (-1, 384)),),
        (("variable", "FP32", (-1, 1)),),
        (("label", "INT64", (-1,)),),
        (("label", "INT64", (-1,)), ("value", "FP32", (-1, 1))),
    ],
)
def test_other_models_have_none(outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> None:
    arrays = {name: np.full([2 if size < 0 else size for size in shape], 0.5) for name, _, shape in outputs}
    assert Confidence(signature(*outputs)).read(arrays) == []


def test_scores_that_are_no_probabilities_give_none() -> None:
    assert Confidence(CLASSIFIER).read(scores([4.2, -1.0, 0.3])) == []
    assert Confidence(CLASSIFIER).read(scores([float("nan")] * 3)) == []


def test_a_rounded_softmax_is_cut_to_one() -> None:
    assert Confidence(CLASSIFIER).read(scores([1.0001, 0.0, 0.0])) == [1.0]


def test_a_request_that_did_not_want_the_probabilities_has_none() -> None:
    assert Confidence(CLASSIFIER).read({"label": np.array([1])}) == []
