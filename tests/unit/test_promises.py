"""docs/promises.md points each promise at tests, and every one of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/promises.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|-"))]
POINTERS = re.findall(r"`([a-z_/0-9]+\.py)::(test_\w+)`", PAGE)


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_tests_that_prove_promises_are_there() -> None:
    assert [(path, name) for path, name in sorted(set(POINTERS)) if name not in names_in(path)] == []


def test_each_promise_has_a_test() -> None:
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in ROWS]
    assert [each for each in cells if len(each) != 2 or not each[0] or "::test_" not in each[1]] == []


def test_the_page_was_read() -> None:
    assert len(ROWS) > 30
