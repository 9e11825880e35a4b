"""docs/security.md says who may do what, and which tests hold it: both must be as they stand there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/security.md").read_text()
TESTS = re.findall(r"`((?:test_\w+\.py)?(?:::test_\w+)?)`", TEXT.partition("## Each promise and its test")[2])
SERVICERS = sorted((ROOT / "services/monitoring").rglob("servicer.py"))


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_the_table_names_each_rpc_of_monitoring_that_a_viewer_may_not_call(role: str) -> None:
    needed = set()
    for path in SERVICERS:
        roles = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)).ROLES
        needed |= {name for name, least in roles.items() if least.name.lower() == role}
    (row,) = re.findall(rf"^\| {role} \| ([A-Z]\w+(?:, [A-Z]\w+)*) \|$", TEXT, re.MULTILINE)
    assert set(row.split(", ")) == needed


def test_each_test_that_holds_a_promise_exists() -> None:
    assert TESTS
    path = ""
    for named in filter(None, TESTS):
        file, _, function = named.partition("::")
        path = file or path
        (found,) = (ROOT / "tests").rglob(path)
        names = re.findall(r"^(?:async )?def (test_\w+)\(", found.read_text(), re.MULTILINE)
        assert function in names if function else names, named
