"""docs/promises.md points each promise at tests, and every one of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/promises.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|-"))]
POINTERS = re.findall(r"`([a-z_/0-9]+\.py)::(test_\w+)`", PAGE)


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), sorted(set(POINTERS)))
def test_the_test_that_proves_a_promise_is_there(path: str, name: str) -> None:
    assert name in names_in(path)


@pytest.mark.parametrize("row", ROWS)
def test_each_promise_has_a_test(row: str) -> None:
    promise, proof = (cell.strip() for cell in row.strip("|").split("|"))
    assert promise
    assert "::test_" in proof


def test_the_page_was_read() -> None:
    assert len(ROWS) > 30
