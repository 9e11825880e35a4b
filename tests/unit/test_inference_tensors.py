from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.inference.engine.signature import SignatureCheck
from services.inference.models import Signature, TensorSpec
from services.inference.tensors import DTYPES, datatype_of, from_raw, to_raw


def reason_of(datatype: str, shape: list[int], raw: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        from_raw("x", datatype, shape, raw)
    assert caught.value.violations[0].field == "x"
    return caught.value.reason


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_raw_bytes_of_every_fixed_size_datatype_are_read_without_a_copy(datatype: str) -> None:
    wanted = np.arange(6).astype(DTYPES[datatype]).reshape(2, 3)
    raw = wanted.tobytes()
    read = from_raw("x", datatype, (2, 3), raw)
    np.testing.assert_array_equal(read, wanted)
    assert datatype_of(read) == datatype
    assert not read.flags.owndata
    assert to_raw(read) == raw


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=20))
def test_byte_strings_survive_both_ways(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    assert from_raw("x", "BYTES", [len(elements)], to_raw(array)).tolist() == elements


def test_text_is_written_as_utf8_and_shapes_are_kept() -> None:
    raw = to_raw(np.array([["é", "b"]], dtype=object))
    assert from_raw("x", "BYTES", [1, 2], raw).tolist() == [["é".encode(), b"b"]]
    assert to_raw(np.array(["é", "b"])) == raw


def test_big_endian_arrays_are_written_little_endian() -> None:
    assert to_raw(np.array([1.5], dtype=">f4")) == struct.pack("<f", 1.5)


def test_a_view_that_begins_inside_a_word_is_copied() -> None:
    raw = memoryview(b"\0" + struct.pack("<2d", 1, 2))[1:]
    read = from_raw("x", "FP64", [2], raw)
    assert read.tolist() == [1, 2]
    assert read.flags.aligned


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_raw_length_must_match_the_shape(size: int) -> None:
    assert reason_of("FP32", [1, 4], bytes(size)) == "SHAPE_MISMATCH"


@pytest.mark.parametrize(
    "shape", [[-1, 4], [-2, -2], [2**62, 2**62], [0, 2**62], [0, 2**25], [2**31], [1] * 33, [-(2**63), 0]], ids=str
)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_negative_and_huge_shapes_are_refused_before_anything_is_allocated(datatype: str, shape: list[int]) -> None:
    assert reason_of(datatype, shape, bytes(16)) == "INVALID_SHAPE"


@pytest.mark.parametrize("raw", [b"", b"\1\0\0", b"\5\0\0\0abc", b"\xff\xff\xff\xffabc", b"\1\0\0\0a\1\0\0"], ids=repr)
def test_byte_strings_cut_short_are_refused(raw: bytes) -> None:
    assert reason_of("BYTES", [2], raw) == "BYTES_TRUNCATED"


def test_byte_strings_with_something_left_over_are_refused() -> None:
    assert reason_of("BYTES", [1], b"\1\0\0\0ab") == "SHAPE_MISMATCH"


def test_many_byte_strings_from_few_bytes_are_refused_before_anything_is_allocated() -> None:
    assert reason_of("BYTES", [2**30], b"\0" * 8) == "BYTES_TRUNCATED"


@pytest.mark.parametrize("datatype", ["BFLOAT16", "FLOAT", "", "fp32"])
def test_other_datatypes_are_refused_with_those_that_are_served(datatype: str) -> None:
    with pytest.raises(InvalidArgument, match="FP32") as caught:
        from_raw("x", datatype, [1], bytes(2))
    assert caught.value.reason == "UNSUPPORTED_DATATYPE"


def test_scalars_and_empty_tensors_are_tensors_too() -> None:
    assert from_raw("x", "INT64", [], bytes(8)).shape == ()
    assert from_raw("x", "FP32", [0, 4], b"").shape == (0, 4)
    assert from_raw("x", "BYTES", [0], b"").shape == (0,)


def test_a_numpy_type_without_a_datatype_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="complex"):
        datatype_of(np.zeros(1, complex))


CHECK = SignatureCheck(
    Signature(
        (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("mask", "BOOL", (-1, 2, -1))),
        (TensorSpec("y", "FP32", (-1,)),),
    )
)
X = np.zeros((2, 4), np.float32)
MASK = np.zeros((2, 2, 5), bool)


def test_matching_inputs_pass_and_nan_is_allowed() -> None:
    CHECK.check({"x": np.full((2, 4), np.nan, np.float32), "mask": MASK})
    assert CHECK.row_count({"x": X, "mask": MASK}) == 2


@pytest.mark.parametrize(
    ("inputs", "reason", "sentence"),
    [
        ({"x": X}, "MISSING_INPUT", r"mask: .*'x', 'mask'"),
        ({"x": X, "mask": MASK, "z": X}, "UNKNOWN_INPUT", r"z: .*'x', 'mask'"),
        ({"x": X.astype("f8"), "mask": MASK}, "DATATYPE_MISMATCH", r"x: datatype FP64 came; .* FP32"),
        ({"x": X[0], "mask": MASK}, "RANK_MISMATCH", r"x: shape \[4\] of rank 1 came; .* rank 2"),
        ({"x": X[:, :3], "mask": MASK}, "DIMENSION_MISMATCH", r"x: shape \[2, 3\] came; .*\[-1, 4\]"),
        ({"x": X, "mask": MASK[:, :1]}, "DIMENSION_MISMATCH", r"mask: shape \[2, 1, 5\] came"),
    ],
)
def test_an_input_that_does_not_fit_is_named_with_what_came_and_what_is_expected(
    inputs: dict[str, np.ndarray], reason: str, sentence: str
) -> None:
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        CHECK.check(inputs)
    assert caught.value.reason == reason


def test_an_unknown_output_is_refused() -> None:
    CHECK.check_outputs(("y",))
    with pytest.raises(InvalidArgument, match=r"z: .*'y'"):
        CHECK.check_outputs(("y", "z"))


def test_a_model_with_a_fixed_first_dimension_has_one_row() -> None:
    check = SignatureCheck(Signature((TensorSpec("x", "FP32", (2, 4)),), ()))
    assert check.row_count({"x": X}) == 1
