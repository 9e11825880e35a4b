"""Sources of features: reading ahead, and the names of databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.registry.features.imports.ahead import Ahead
from services.registry.features.imports.connections import Connections


def test_what_is_read_ahead_comes_in_order_and_silence_is_told() -> None:
    going_on = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        going_on.wait(60)
        yield from range(2, 10)

    with Ahead(items, going_on.set) as ahead:
        found: list[int] = []
        for item in ahead:
            if item is None:
                going_on.set()
            else:
                found.append(item)
    assert found == list(range(1, 10))


def test_who_leaves_stops_what_waits() -> None:
    stopped = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert stopped.wait(60)
        raise AssertionError("nobody is there to hear it")

    with Ahead(items, stopped.set) as ahead:
        assert next(iter(ahead)) == 1
    assert stopped.is_set()


def test_an_error_is_raised_where_the_items_are_taken() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise InvalidArgument("no", reason="MALFORMED_FILE")

    with Ahead(items, lambda: None) as ahead:
        coming = (item for item in ahead if item is not None)
        assert next(coming) == 1
        with pytest.raises(InvalidArgument, match="no"):
            next(coming)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"shop": 1}', b"postgresql://me:secret@host/db", b"\xff"])
def test_a_file_of_databases_that_is_none_is_not_quoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "connections.json"
    file.write_bytes(content)
    with pytest.raises(FailedPrecondition) as refused:
        Connections(file).url_of("shop")
    assert refused.value.reason == "CONNECTIONS_UNREADABLE"
    assert "secret" not in refused.value.message


def test_databases_are_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "connections.json"
    file.write_text('{"shop": "postgresql://one"}')
    known = Connections(file)
    assert known.url_of("shop") == "postgresql://one"
    file.write_text('{"shop": "postgresql://two"}')
    assert known.url_of("shop") == "postgresql://two"
    with pytest.raises(InvalidArgument, match="it names shop"):
        known.url_of("store")
    with pytest.raises(InvalidArgument, match="it names none"):
        Connections(None).url_of("shop")
