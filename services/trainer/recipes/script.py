"""The recipe `script`: Python of your own, a file or several, with a function `train(context)`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, field_validator

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.recipe import Parameters
from services.trainer.recipes.script_outcome import outcome_of
from services.trainer.task import Outcome

MAX_CODE_CHARS: Final = 65_536
_MODULE: Final = "train"
Source = Annotated[str, Field(max_length=MAX_CODE_CHARS)]


class ScriptParameters(Parameters):
    """What a script is; every other parameter is the script's own, as `context.parameters` gives it."""

    model_config = ConfigDict(extra="allow")

    code: Source = ""
    """Python with a function train(context): one file, at most 65,536 characters."""
    files: Annotated[dict[str, Source], Field(default_factory=dict, max_length=64)]
    """Several files, by path: train.py, or train/__init__.py, has train(context) and imports the others."""

    @field_validator("files")
    @classmethod
    def _are_below(cls, files: dict[str, str]) -> dict[str, str]:
        for path in files:
            parts = PurePosixPath(path).parts
            if (
                not parts
                or not path.isprintable()
                or "\\" in path
                or path != "/".join(parts)
                or {"/", "..", "."} & set(parts)
            ):
                raise ValueError(f"{path!r} is no path below the script's folder, such as train.py or steps/clean.py")
        return files


class Script:
    """Runs `train(context)` of a file of yours."""

    name: ClassVar[str] = "script"
    description: ClassVar[str] = (
        "Runs Python of your own: a function train(context), which leaves a version's files and says what they are."
    )
    parameters: ClassVar[type[Parameters]] = ScriptParameters
    needs: ClassVar[tuple[str, ...]] = ()
    reads_rows: ClassVar[bool] = False
    reads_parent: ClassVar[bool] = False

    def train(self, context: Context) -> Outcome:
        """Run the script; raises TrainingFailed where it is none, or what it gives back says of no version."""
        told = ScriptParameters.told(context.parameters)
        folder = context.folder.path / "tmp" / "script"
        for path, source in {**told.files, **({f"{_MODULE}.py": told.code} if told.code else {})}.items():
            target = folder.joinpath(*path.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source)
        train = _train_of(_imported([folder, context.folder.script]))
        own = {name: value for name, value in context.parameters.items() if name not in ScriptParameters.model_fields}
        said = train(context.with_task(replace(context.task, parameters=own)))
        return outcome_of(said, context, self.name)


def _imported(folders: list[Path]) -> ModuleType:
    sys.path[:0] = map(str, folders)
    # A trial of a search has one of its own.
    for name in [each for each in sys.modules if each.partition(".")[0] == _MODULE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        sentence = f"the script has no {_MODULE}.py: give one as `code`, or among `files`"
        raise TrainingFailed(sentence, reason="INVALID_PARAMETERS") from error


def _train_of(module: ModuleType) -> Callable[[Context], Any]:
    train: Callable[[Context], Any] | None = getattr(module, "train", None)
    if not callable(train):
        raise TrainingFailed("the script has no function train(context)", reason="INVALID_PARAMETERS")
    return train
