"""What a registration says of a signature, put together with what the file says."""

from __future__ import annotations

import pytest

from services.registry.models import Signature, TensorSpec
from services.registry.signatures import reconcile
from services.registry.validation import report
from services.registry.validation.report import Failure, FailureReason

FOUND = report.Signature(
    (report.TensorSpec("X", "FP32", (-1, 2)),),
    (report.TensorSpec("label", "INT64", (-1,)), report.TensorSpec("scores", "FP32", (-1, 3))),
)
X = TensorSpec("X", "FP32", (-1, 2))
LABEL, SCORES = TensorSpec("label", "INT64", (-1,)), TensorSpec("scores", "FP32", (-1, 3))


def test_without_a_declaration_the_files_signature_stands() -> None:
    assert reconcile(None, FOUND) == Signature((X,), (LABEL, SCORES))


@pytest.mark.parametrize("name", ["", "X"])
def test_columns_alone_are_declared_without_repeating_the_file(name: str) -> None:
    declared = Signature((TensorSpec(name, "", (), ("length", "width")),), ())
    named = TensorSpec("X", "FP32", (-1, 2), ("length", "width"))
    assert reconcile(declared, FOUND) == Signature((named,), (LABEL, SCORES))


def test_columns_of_one_output_among_several_need_its_name() -> None:
    declared = Signature((), (TensorSpec("scores", "", (), ("a", "b", "c")),))
    assert reconcile(declared, FOUND) == Signature(
        (X,), (LABEL, TensorSpec("scores", "FP32", (-1, 3), ("a", "b", "c")))
    )
    assert isinstance(reconcile(Signature((), (TensorSpec("", "", (), ("a", "b", "c")),)), FOUND), Failure)


@pytest.mark.parametrize(
    "declared",
    [
        Signature((TensorSpec("X", "FP64", (-1, 2)),), (LABEL, SCORES)),
        Signature((TensorSpec("X", "FP32", (-1, 3)),), (LABEL, SCORES)),
        Signature((TensorSpec("Y", "FP32", (-1, 2)),), (LABEL, SCORES)),
        Signature((X,), (LABEL,)),
        Signature((TensorSpec("X", "FP32", (-1, 2), ("only one",)),), (LABEL, SCORES)),
        Signature((TensorSpec("nothing", "", (), ("a",)),), ()),
    ],
)
def test_a_declaration_that_contradicts_the_file_is_refused(declared: Signature) -> None:
    failure = reconcile(declared, FOUND)
    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.SIGNATURE_MISMATCH
