"""What the registry says of the parent version, beside its files: what its inputs mean, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Self

from services.trainer.task import RunFolder

_FILE: Final = ".penstock-version.json"


@dataclass(frozen=True, slots=True)
class ParentInput:
    """An input of a version; `columns` are those of a matrix, where somebody said what they mean."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParentVersion:
    """A version as the registry has it.

    Attributes:
        version: its name.
        framework: a name of the registry's Framework without its prefix: ONNX, TENSORFLOW.
        inputs: in the signature's order.
        task_type: as an Outcome has it; '': nobody said.
        label: the label's column; '': nobody said.
        classes: in the order of its probabilities; none: nobody said.
    """

    version: str = ""
    framework: str = "ONNX"
    inputs: Sequence[ParentInput] = ()
    task_type: str = ""
    label: str = ""
    classes: Sequence[str] = ()

    def write(self, folder: RunFolder) -> None:
        """Write it beside the parent's files."""
        (folder.parent / _FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        """Read what `write` wrote; where nobody did, nothing is known."""
        path = folder.parent / _FILE
        if not path.exists():
            return cls()
        said = json.loads(path.read_text())
        inputs = tuple(
            ParentInput(each["name"], each["datatype"], tuple(each["shape"]), tuple(each["columns"]))
            for each in said["inputs"]
        )
        return cls(**{**said, "inputs": inputs, "classes": tuple(said["classes"])})


def files_of(folder: RunFolder) -> list[str]:
    """Give the paths of the parent's files, in order."""
    found = (path.relative_to(folder.parent).as_posix() for path in folder.parent.rglob("*") if path.is_file())
    return sorted(path for path in found if path != _FILE)
