"""The ends of a child that reads a stranger's file: what it says of a file is taken only in the form that is agreed."""

from __future__ import annotations

import json
import signal

import pytest

from services.common.children.child import Ended
from services.common.children.complaints import OUT_OF_MEMORY, REFUSED, complaint
from services.common.children.readers import Broken, OutOfMemory, Refused, check_read


def check(returncode: int, complained: bytes = b"") -> None:
    check_read(Ended(returncode, bytearray(), bytearray(complained)), "rows", reasons={"BAD"}, max_sentence_chars=10)


def test_a_reader_that_read_its_file_is_left_alone() -> None:
    check(0, b"a warning of a library")


def test_what_a_reader_complains_of_is_its_last_line() -> None:
    with pytest.raises(Refused) as caught:
        check(REFUSED, b'["BAD", "no", ""]' + complaint("BAD", "it is bad", "7").encode())
    assert (caught.value.reason, caught.value.sentence, caught.value.place) == ("BAD", "it is bad", "7")


@pytest.mark.parametrize(
    ("returncode", "error"),
    [
        (-signal.SIGXCPU, TimeoutError),
        (-signal.SIGKILL, OutOfMemory),
        (OUT_OF_MEMORY, OutOfMemory),
        (-signal.SIGSEGV, Broken),
        (1, Broken),
    ],
)
def test_an_end_says_what_became_of_the_reader(returncode: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(returncode)


@pytest.mark.parametrize(
    "said",
    [
        b"", b"no JSON", b"7", b"null", b'"BAD"', b'["BAD", "it is bad"]', b'[["BAD"], "it is bad", ""]',
        b'["GOOD", "it is bad", ""]', b'["BAD", 7, ""]', b'["BAD", "it is bad", ["x"]]', b"[" * 100_000, b"\xff",
        json.dumps(["BAD", "x" * 11, ""]).encode(),
    ],
    ids=lambda said: said[:20].decode(errors="replace"),
)  # fmt: skip
def test_a_complaint_of_another_form_is_none(said: bytes) -> None:
    with pytest.raises(Broken, match="gave no reason"):
        check(REFUSED, said)
