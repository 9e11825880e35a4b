"""What learning goes on from after a rescue: arrays in one file, and no pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_FILE: Final = "checkpoint.npz"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far learning has come.

    Attributes:
        epoch: the last one that is done.
        state: weights and the optimiser's variables, after it.
        best_epoch: of early stopping: the one with the lowest loss on the validation rows; 0: none.
        best_loss: its loss.
        best: the state after it.
    """

    epoch: int
    state: Sequence[NDArray[Any]]
    best_epoch: int = 0
    best_loss: float = float("inf")
    best: Sequence[NDArray[Any]] = ()

    def write(self, folder: Path) -> None:
        """Put it in the place of the one before, whole or not at all."""
        arrays: dict[str, Any] = {f"state/{place}": array for place, array in enumerate(self.state)}
        arrays |= {f"best/{place}": array for place, array in enumerate(self.best)}
        written = folder / f"{_FILE}.part"
        with written.open("wb") as file:
            np.savez(file, epoch=self.epoch, best_epoch=self.best_epoch, best_loss=self.best_loss, **arrays)
        written.replace(folder / _FILE)

    @classmethod
    def find(cls, folder: Path) -> Checkpoint | None:
        """Read what `write` wrote, None where nobody did; raises ValueError where it cannot be read."""
        try:
            with np.load(folder / _FILE, allow_pickle=False) as file:
                return cls(
                    int(file["epoch"]),
                    _listed(file, "state"),
                    int(file["best_epoch"]),
                    float(file["best_loss"]),
                    _listed(file, "best"),
                )
        except FileNotFoundError:
            return None
        except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"it cannot be read: {error}") from error


def _listed(file: Any, name: str) -> list[NDArray[Any]]:
    return [file[f"{name}/{place}"] for place in range(sum(each.startswith(f"{name}/") for each in file.files))]
