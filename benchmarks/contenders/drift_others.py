"""Evidently's and NannyML's defaults on the drift benchmark's streams, each in an environment of its own."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.environments import FOLDER
from benchmarks.drift import shifted, windows
from benchmarks.drift_streams import NUMERIC, STREAMS, Rows, Source, count, kinds_of, names_of, reference_of, window_of
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.models import Rules
from services.monitoring.profiles.models import Reference

PACKAGES: Mapping[str, Sequence[str]] = {
    "evidently": ("evidently==0.7.23", "pandas==2.3.3"),
    "nannyml": ("nannyml==0.13.1", "pandas==2.3.3", "statsmodels==0.14.5"),
}
FOREIGN = Path(__file__).parent / "foreign"
SHIFTED = f"feature_{NUMERIC - 1:02d}"
# Both would tell their makers of their use.
SILENT = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1"}


@dataclass(frozen=True, slots=True)
class Told:
    """What one of them said of each window, and how much processor time a window took."""

    drifted: Sequence[Sequence[str]]
    seconds: float

    def said(self, feature: str = "") -> str:
        """Say in how many windows there was an alarm, of one feature where one is named."""
        alarms = sum(feature in each if feature else bool(each) for each in self.drifted)
        return f"{alarms} of {len(self.drifted)}"


def show_others(console: Console, options: argparse.Namespace) -> None:
    """Let each judge the same windows, without drift and with a shift by 0.2 σ in one of 50 features."""
    table = Table("stream", "rows", "drift", "who", "any alarm", "of the shifted one", "processor s a window")
    for stream in (each for each in STREAMS if each.name in options.streams):
        reference = Source(stream, np.random.default_rng([options.seed, 0, 0])).draw(options.reference_rows)
        for size in options.sizes:
            plain = list(windows(stream, size, options.runs, options.seed))
            sides = [("none", plain)]
            if stream is STREAMS[0]:
                generator = np.random.default_rng(options.seed)
                sides.append(("0.2 σ in one", [shifted(rows, generator) for rows in plain]))
            for drift, drawn in sides:
                for who, told in judged(reference, drawn, options.who).items():
                    cells = (who, told.said(), told.said(SHIFTED), f"{told.seconds:.3f}")
                    row = (stream.name, f"{size:,}", drift, *cells)
                    table.add_row(*row)
                    console.print("[dim]" + " | ".join(row))
    console.print(table)


def judged(reference: Rows, drawn: Sequence[Rows], others: Sequence[str]) -> dict[str, Told]:
    """Ask ours, and others."""
    found = {"Penstock": _ours(reference_of(reference), drawn)}
    with tempfile.TemporaryDirectory(prefix="penstock-drift-") as name:
        folder = Path(name)
        _write(folder / "reference.npz", reference)
        for number, rows in enumerate(drawn):
            _write(folder / f"window_{number:05d}.npz", rows)
        for who in others:
            found[who] = _asked(who, folder)
    return found


def _ours(reference: Reference, drawn: Sequence[Rows]) -> Told:
    began = time.process_time()
    told = [compare(reference, window_of([count(reference, rows)]), Rules()) for rows in drawn]
    seconds = (time.process_time() - began) / len(drawn)
    return Told([[result.feature for result in each.results if result.drifted] for each in told], seconds)


def _write(path: Path, rows: Rows) -> None:
    np.savez(path, allow_pickle=False, **columns(rows))


def columns(rows: Rows) -> dict[str, NDArray[Any]]:
    """Give rows as columns, the kinds by their names."""
    found = {}
    for number in range(rows.values.shape[1]):
        values = rows.values[:, number]
        if number >= NUMERIC:
            values = np.asarray(names_of(number))[kinds_of(number, values)]
        found[f"feature_{number:02d}"] = values
    return found


def _asked(who: str, folder: Path) -> Told:
    python, script = _environment(who), FOREIGN / f"{who}_drift.py"
    done = subprocess.run(
        [str(python), str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **SILENT},
    )
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr[-4_000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    names = sorted(answer["drifted"])
    return Told([answer["drifted"][name] for name in names], answer["seconds"] / max(len(names), 1))


def _environment(who: str) -> Path:
    """Give the interpreter of an environment of its own, which is made if it is not there."""
    home = FOLDER / who
    noted = home / "packages.txt"
    if not noted.exists() or noted.read_text().split() != list(PACKAGES[who]):
        shutil.rmtree(home, ignore_errors=True)
        make = (
            [["uv", "venv", "--quiet", "--python", sys.executable, str(home)]]
            if shutil.which("uv")
            else [[sys.executable, "-m", "venv", str(home)]]
        )
        install = ["uv", "pip", "install", "--quiet", "--python", str(home / "bin/python")]
        if not shutil.which("uv"):
            install = [str(home / "bin/python"), "-m", "pip", "install", "--quiet"]
        for command in (*make, [*install, *PACKAGES[who]]):
            subprocess.run(command, check=True)
        noted.write_text("\n".join(PACKAGES[who]))
    return home / "bin/python"
