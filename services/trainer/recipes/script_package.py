"""A script from the blob store, as it lies in a run's folder."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from services.trainer.task import RunFolder

_SAID: Final = "script.json"
_SENT: Final = "script"


@dataclass(frozen=True, slots=True)
class ScriptPackage:
    """A version of a script.

    Attributes:
        reference: NAME/VERSION.
        entry: the path of the file with train(context).
        packed: whether it is a zip of files; else it is that one file.
        sha256: lowercase hex, of its bytes as they were sent.
    """

    reference: str
    entry: str
    packed: bool
    sha256: str

    def write(self, folder: RunFolder) -> None:
        """Write it beside its bytes."""
        (folder.script / _SAID).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: RunFolder) -> Self | None:
        """Read what `write` wrote; None where nobody did."""
        path = folder.script / _SAID
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def unpack(self, folder: RunFolder, target: Path) -> None:
        """Write its files into a folder. They were looked through when they were sent, see `scripts/sources.py`."""
        if self.packed:
            with zipfile.ZipFile(sent_in(folder)) as archive:
                archive.extractall(target)
            return
        path = target.joinpath(*self.entry.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sent_in(folder).read_bytes())


def sent_in(folder: RunFolder) -> Path:
    """Say where the bytes of a run's script lie, as they were sent."""
    return folder.script / _SENT


def module_of(entry: str) -> str:
    """Name the module that a file is imported as: trees/fit.py is trees.fit, and trees/__init__.py is trees."""
    return entry.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
