"""What the tests of registering and validating share: runs' folders, rows of flowers, and a run that never ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.ids import uuid7
from services.trainer.registering.models import Registration
from services.trainer.task import Column, Outcome, RunFolder
from tests.testdata import models

COLUMNS = ("width", "height", "depth", "age")


class GoesOn:
    """A run that nobody ends, unless a test does."""

    def __init__(self) -> None:
        self.ended: Exception | None = None
        self.callbacks: list[Callable[[], None]] = []

    def check(self) -> None:
        if self.ended is not None:
            raise self.ended

    def wait(self, seconds: float) -> None:
        self.check()

    def on_stop(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        self.callbacks.remove(callback)


def registration(folder: Path, model: str, *, seed: int = 0, **more: Any) -> Registration:
    """What a run left: a classifier of three classes by four columns, whose weights a seed draws."""
    run_folder = RunFolder(folder / uuid7())
    run_folder.make()
    (run_folder.artifact / "model.onnx").write_bytes(models.classifier(seed=seed))
    outcome = Outcome(
        framework="ONNX",
        label="species",
        features=[Column(name, "FP32") for name in COLUMNS],
        input_name="X",
        task_type="classification",
        classes=("0", "1", "2"),
        environment={"python": "3.11"},
        code_sha256="ab" * 32,
        metadata={"estimator": "LogisticRegression"},
    )
    given = {"run_id": uuid7(), "recipe": "sklearn", "config_version": 3, "dataset": "iris/7", **more}
    return Registration(model=model, outcome=outcome, folder=run_folder, **given)


def weights(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weights that `models.classifier` draws."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((4, 3)).astype(np.float32), generator.standard_normal(3).astype(np.float32)


def flowers(count: int, *, seed: int = 0, wrong: float = 0.0, **more: Sequence[Any]) -> pa.Table:
    """Rows whose species is what the classifier of a seed says of them, save for a share that is wrong."""
    generator = np.random.default_rng(100 + seed)
    values = generator.standard_normal((count, 4)).astype(np.float32)
    matrix, bias = weights(seed)
    species = (values @ matrix + bias).argmax(axis=1)
    off = np.arange(count) < round(wrong * count)
    species = np.where(off, (species + 1) % 3, species)
    columns = {name: values[:, index].astype(np.float64) for index, name in enumerate(COLUMNS)}
    return pa.table({**columns, "species": species, **more})


def kept(rows: pa.Table | None, folder: Path, **more: Any) -> tuple[Path, ...]:
    """Rows as a trial has them: in a file of Parquet; none of none."""
    if rows is None:
        return ()
    path = folder / f"{uuid7()}.parquet"
    pq.write_table(rows, path, **more)
    return (path,)
