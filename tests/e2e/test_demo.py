"""The demo, as `make demo` plays it to somebody who has never run Penstock: with an empty home."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 480
CHECKS = (
    "✓ answers equal scikit-learn's own: 38 of 38",
    "✓ answers equal scikit-learn's own: 38 of 38",
    "✓ rows judged right, as counted here:",
    "✓ features compared: 4 of 4",
    "✓ version, check and request hang together: 3 of 3",
    "✓ the alert leads to the version that answered: 1 of 1",
    "✓ the retrained version is the better one: 1 of 1",
    "✓ request, run, dataset and version hang together: 4 of 4",
)
MOVES = (
    "iris 2.0.0 answers now",
    "iris 1.0.0 answers again",
    "history of iris",
    "petal_length has drifted",
    "The rule fires: iris 1.0.0: effect in the latest check is",
    "acknowledged by anonymous: the ruler is being looked for",
    "A retraining is asked for, since 148 flowers have a label by now",
    "was checked → A check of iris 1.0.0 for drift",
    "version 2.1.0 passed validation",
    "iris, before, during and after",
    "The dataset iris-traffic/1 → fed → A training run of iris",
    "A training run of iris → trained → Version 2.1.0 of iris",
    "Version 2.1.0 of iris → was evaluated → An evaluation of iris 2.1.0",
    "Version 2.1.0 of iris → moved → iris 2.1.0 to PRODUCTION",
)


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE_S + 30)
def test_the_demo_plays_the_main_job_to_its_end_and_leaves_nothing(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(scratch), "COLUMNS": "160", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found = [line.strip() for line in done.stdout.splitlines() if "✓" in line]
    assert len(found) == len(CHECKS), done.stdout
    assert all(line.startswith(check) for line, check in zip(found, CHECKS, strict=True)), found
    position = -1
    for words in MOVES:
        position = done.stdout.find(words, position + 1)
        assert position >= 0, done.stdout
    before, during, after = accuracies(done.stdout)
    assert before > during, "the ruler makes the model worse"
    assert after > during, "what is retrained is better with the new ruler"
    assert re.fullmatch(r"▸ All of it took \d+ s, and nothing of it is left", done.stdout.splitlines()[-1])
    assert list(scratch.iterdir()) == []
    assert not [process.pid for process in psutil.process_iter() if names(process, scratch)]


def accuracies(told: str) -> list[float]:
    """The percentages of the table that compares the model before, during and after the new ruler."""
    table = told.partition("iris, before, during and after")[2]
    return [float(share) for share in re.findall(r"│ *(\d+\.\d)% *│", table)[:3]]


def names(process: psutil.Process, folder: Path) -> bool:
    """Say whether a process was told of the folder."""
    try:
        return any(str(folder) in argument for argument in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
