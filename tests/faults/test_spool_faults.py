from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.inference.events.spool import Spool
from tests.faults.spool_worker import SETTINGS, ReceivedFile

ROOT = Path(__file__).parents[2]


def worker(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.faults.spool_worker", *arguments]


@pytest.mark.slow
def test_kill_9_loses_no_flushed_event_and_delivers_each_exactly_once(tmp_path: Path) -> None:
    chooser = random.Random(7)
    flushed: list[int] = []
    first = 0
    for _ in range(6):
        process = subprocess.Popen(
            worker("spool", str(tmp_path), str(first)), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        reports = chooser.randint(1, 40)
        last = first
        for _ in range(reports):
            last = int(process.stdout.readline())
        process.kill()
        process.wait(60)
        rest = [int(line) for line in process.stdout.read().split()]
        process.stdout.close()
        last = rest[-1] if rest else last
        flushed += range(first, last + 1)
        first = last + 1_000_000

    receiver = ReceivedFile(tmp_path / "received")
    spool: Spool[int] = Spool(tmp_path / "spool", lambda n: b"%08d" % n, receiver.deliver, SETTINGS)
    spool.open()
    assert spool.close(60)
    stored = [int(line) for line in receiver.read()]
    assert len(stored) == len(set(stored))
    assert set(flushed) <= set(stored)
    assert stored == sorted(stored), "the order is kept, also across the deaths"
    assert spool.status.delivery.corrupt == 0
    assert list((tmp_path / "spool").rglob("*.seg")) == []


def check_report(report: dict[str, object]) -> None:
    received = report["received"]
    assert isinstance(received, list)
    assert report["dropped_while_full"] != 0, "what could not be kept was counted"
    assert len(received) + int(str(report["dropped"])) == report["appended"]
    assert received == sorted(set(received))
    assert received[-1] == report["last"], "it recovered once there was room"
    assert report["drained"] is True
    assert report["torn"] == [], "the part of a group that did fit was taken away again"
    assert report["corrupt"] == 0
    assert report["left"] == []


@pytest.mark.slow
def test_when_files_may_not_grow_predictions_go_on_and_the_spool_recovers(tmp_path: Path) -> None:
    done = subprocess.run(
        worker("fill", str(tmp_path), "8000"), cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=240
    )
    report = json.loads(done.stdout)
    assert report["state"] == "the disk refuses the spool: File too large"
    check_report(report)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root; the test above does the same by RLIMIT_FSIZE")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], capture_output=True, check=False, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here ({mounted.stderr.strip()}); the test above stands in for it")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_when_the_disk_is_full_predictions_go_on_and_the_spool_recovers(small_disk: Path) -> None:
    done = subprocess.run(
        worker("fill", str(small_disk), "0"), cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=240
    )
    report = json.loads(done.stdout)
    assert report["state"] == "the disk refuses the spool: No space left on device"
    check_report(report)
