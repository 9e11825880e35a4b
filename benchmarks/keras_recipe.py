"""The recipe keras-mlp beside the script that a person would write in its place.

    python -m benchmarks keras-recipe
    python -m benchmarks keras-recipe --rows 4 4000 --rounds 3

Both read the same Parquet, train the same layers for as many epochs and batches, measure all three parts and leave a
model behind. Each turn is a process of its own, and begins to count once TensorFlow and Keras are imported; what else
the recipe imports (ONNX, ONNX Runtime) counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Ratio, interleave
from services.trainer.task import Epoch, Event, Part, RunFolder, Task

COLUMNS = 10
HIDDEN, LEARNING_RATE, BATCH = (8, 4), 0.01, 4
console = Console(width=140)


def main() -> None:
    """Take turns, and show the table; with `--side`, be one turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 1_000])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(_turn(options.side, RunFolder(options.folder), options.epochs)))
        return
    for rows in options.rows:
        table = Table("rows", "epochs", "side", "seconds", "to the script", "low, high", "accuracy on the test rows")
        with tempfile.TemporaryDirectory() as folder:
            _write_rows(RunFolder(Path(folder)), rows)
            turn = partial(_in_a_process, folder, options.epochs)
            taken = interleave(list(SIDES), turn, options.rounds)
        base = [seconds for seconds, _ in taken["script"]]
        for side, turns in taken.items():
            seconds = [each for each, _ in turns]
            ratio = Ratio.of(seconds, base)
            table.add_row(
                f"{rows:,}", str(options.epochs), side, f"{median(seconds):.2f}", f"{ratio.median:.2f}",
                f"{ratio.low:.2f}, {ratio.high:.2f}", f"{median(accuracy for _, accuracy in turns):.3f}",
            )  # fmt: skip
        console.print(table)


def _write_rows(folder: RunFolder, rows: int) -> None:
    """XOR in two of ten columns; of four rows, XOR itself."""
    folder.make()
    generator = np.random.default_rng(rows)
    for part, count in ((Part.TRAIN, rows), (Part.VALIDATION, max(4, rows // 5)), (Part.TEST, max(4, rows // 5))):
        x = generator.normal(size=(count, COLUMNS)) if rows > 4 else np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
        label = (x[:, 0] > 0) ^ (x[:, 1] > 0)
        columns = {f"column_{place}": x[:, place] for place in range(x.shape[1])}
        pq.write_table(pa.table(columns | {"label": label.astype(int)}), folder.rows(part))


def _in_a_process(folder: str, epochs: int, side: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks", "keras-recipe", "--side", side]
    done = subprocess.run(
        [*command, "--folder", folder, "--epochs", str(epochs)], check=True, stdout=subprocess.PIPE, env=_environment()
    )
    seconds, accuracy = json.loads(done.stdout.splitlines()[-1])
    return seconds, accuracy


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}


def _turn(side: str, folder: RunFolder, epochs: int) -> tuple[float, float]:
    import keras  # noqa: F401 - its start-up, and TensorFlow's, do not count
    import tensorflow  # noqa: F401

    for left in (folder.checkpoint, folder.out):  # of the turn before, which would be gone on from
        shutil.rmtree(left)
    folder.make()
    began = time.perf_counter()
    accuracy = SIDES[side](folder, epochs)
    return time.perf_counter() - began, accuracy


def _recipe(folder: RunFolder, epochs: int) -> float:
    from services.trainer.recipes.context import Context
    from services.trainer.recipes.keras_mlp import KerasMlp

    told: list[Event] = []
    task = Task("run", "model", KerasMlp.name, {"epochs": epochs, "format": "savedmodel"})
    outcome = KerasMlp().train(Context(task, folder, told.append))
    assert sum(isinstance(event, Epoch) for event in told) == epochs
    return outcome.metrics[Part.TEST]["accuracy"]


def _script(folder: RunFolder, epochs: int, **compiling: Any) -> float:
    import keras

    keras.utils.set_random_seed(0)
    parts = []
    for part in Part:
        table = pq.read_table(folder.rows(part))
        names = [name for name in table.column_names if name != "label"]
        x = np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float32)
        parts.append((x, table["label"].to_numpy().astype(np.float32)))
    mean, deviation = parts[0][0].mean(axis=0), parts[0][0].std(axis=0)
    (x, y), (x_validation, y_validation), (x_test, y_test) = [((x - mean) / deviation, y) for x, y in parts]
    hidden = [keras.layers.Dense(units, activation="relu") for units in HIDDEN]
    model = keras.Sequential([keras.Input((x.shape[1],)), *hidden, keras.layers.Dense(1, activation="sigmoid")])
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"], **compiling)
    model.fit(x, y, epochs=epochs, batch_size=BATCH, validation_data=(x_validation, y_validation), verbose=0)
    for known, labels in ((x, y), (x_validation, y_validation)):
        model.evaluate(known, labels, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    with tempfile.TemporaryDirectory() as left:
        model.export(left, verbose=False)
    return float(accuracy)


def _quick_script(folder: RunFolder, epochs: int) -> float:
    """With what Keras has against its own loop: so many batches before it comes back to Python."""
    return _script(folder, epochs, steps_per_execution=64)


SIDES: dict[str, Callable[[RunFolder, int], float]] = {
    "script": _script,
    "script, 64 steps per execution": _quick_script,
    "recipe": _recipe,
}

if __name__ == "__main__":
    main()
