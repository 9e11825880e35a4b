from __future__ import annotations

import dataclasses

import pytest

from services.registry.validation.report import FailureReason, Signature, TensorSpec, check_declared, one_line

FOUND = Signature(
    inputs=(TensorSpec("x", "FP32", (-1, 4)), TensorSpec("mask", "INT64", (-1,))),
    outputs=(TensorSpec("y", "FP32", (-1, 3)),),
)


def declared(**changes: tuple[TensorSpec, ...]) -> Signature:
    return dataclasses.replace(FOUND, **changes)


@pytest.mark.parametrize(
    "claim",
    [
        FOUND,
        declared(inputs=FOUND.inputs[::-1]),
        declared(inputs=(TensorSpec("x", "FP32", (8, 4)), FOUND.inputs[1])),
    ],
    ids=["the same", "another order", "an open dimension narrowed"],
)
def test_a_declared_signature_that_agrees_is_accepted(claim: Signature) -> None:
    assert check_declared(claim, FOUND) is None


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (declared(inputs=FOUND.inputs[:1]), "['x'], those of the file ['mask', 'x']"),
        (declared(outputs=(TensorSpec("z", "FP32", (-1, 3)),)), "outputs are ['z']"),
        (declared(outputs=(TensorSpec("y", "FP64", (-1, 3)),)), "declared FP64, and the file has FP32"),
        (declared(outputs=(TensorSpec("y", "FP32", (-1, 2)),)), "[-1, 2], and the file has [-1, 3]"),
        (declared(outputs=(TensorSpec("y", "FP32", (-1, -1)),)), "[-1, -1], and the file has [-1, 3]"),
        (declared(outputs=(TensorSpec("y", "FP32", (-1,)),)), "[-1], and the file has [-1, 3]"),
    ],
    ids=["missing", "renamed", "datatype", "dimension", "opened", "rank"],
)
def test_a_declared_signature_that_contradicts_the_file_is_refused_with_both_sides(claim: Signature, said: str) -> None:
    failure = check_declared(claim, FOUND)
    assert failure is not None
    assert failure.reason is FailureReason.SIGNATURE_MISMATCH
    assert said in failure.message


def test_text_from_a_file_becomes_one_bounded_printable_line() -> None:
    assert one_line("a\x00b\n\x1b[31mc" + "d" * 1000, 12) == "a b [31mcddd"
