"""A service as a process: how it begins, refuses to, and what it writes to its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SERVICES = ("registry", "monitoring", "inference")
ROOT = Path(__file__).resolve().parents[2]


def run(service: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a service's process where no setting is, but these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *arguments],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_argument_is_misuse(service: str, tmp_path: Path) -> None:
    done = run(service, "sevre", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: python -m services.{service}")


@pytest.mark.slow
@pytest.mark.parametrize("service", ["registry", "monitoring"])
def test_a_missing_setting_is_named_and_no_value_is_shown(service: str, tmp_path: Path) -> None:
    done = run(service, folder=tmp_path, PENSTOCK_PORT="the-secret")
    assert done.returncode == 2
    assert "PENSTOCK_DATABASE_URL" in done.stderr
    assert "PENSTOCK_PORT" in done.stderr
    assert "the-secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_service_that_cannot_begin_says_why_in_one_line_of_json(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    done = run(
        "inference", folder=tmp_path, PENSTOCK_KEYS_FILE="keys.json", PENSTOCK_PORT="0", PENSTOCK_METRICS_PORT="0"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["service"], last["event"], last["reason"]) == ("inference", "not started", "KEYS_UNREADABLE")


@pytest.mark.slow
def test_a_database_that_is_away_is_said(tmp_path: Path) -> None:
    done = run("monitoring", folder=tmp_path, PENSTOCK_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("not started", "DATABASE_UNAVAILABLE")
