"""The recipe `script`: Python of your own, a file or several, with a function `train(context)`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.recipe import Parameters
from services.trainer.recipes.script_outcome import outcome_of
from services.trainer.recipes.script_package import ScriptPackage, module_of
from services.trainer.task import Outcome

MAX_CODE_CHARS: Final = 65_536
_ENTRY: Final = "train.py"
_PACKAGE_ENTRY: Final = "train/__init__.py"
Source = Annotated[str, Field(max_length=MAX_CODE_CHARS)]


class ScriptParameters(Parameters):
    """What a script is; every other parameter is the script's own, as `context.parameters` gives it."""

    model_config = ConfigDict(extra="allow")

    script: Annotated[str, Field(max_length=140)] = ""
    """A script that was uploaded, as NAME or NAME/VERSION; a run keeps the version that was the newest when it was
    made."""
    code: Source = ""
    """In its place: Python with a function train(context), one file, at most 65,536 characters."""
    files: Annotated[dict[str, Source], Field(default_factory=dict, max_length=64)]
    """Likewise, several files, by path: train.py, or train/__init__.py, has train(context) and imports the others."""

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

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.script and (self.code or self.files):
            raise ValueError("name an uploaded script, or give its code or files; not both")
        return self


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
        folder.mkdir(parents=True, exist_ok=True)
        package = _package(told.script, context) if told.script else None
        if package is None:
            for path, source in {**told.files, **({_ENTRY: told.code} if told.code else {})}.items():
                target = folder.joinpath(*path.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(source)
        else:
            package.unpack(context.folder, folder)
        train = _train_of(_imported(folder, package.entry if package else _entry_of(told)))
        own = {name: value for name, value in context.parameters.items() if name not in ScriptParameters.model_fields}
        said = train(context.with_task(replace(context.task, parameters=own)))
        if package is None:
            return outcome_of(said, context, self.name)
        # Its digest is part of what made the version; the parameters only name it.
        made_of = {"script": package.reference, "script_sha256": package.sha256}
        traced = context.with_task(replace(context.task, parameters={**context.parameters, **made_of}))
        outcome = outcome_of(said, traced, self.name)
        return replace(outcome, metadata={**outcome.metadata, **made_of})


def _package(reference: str, context: Context) -> ScriptPackage:
    package = ScriptPackage.read(context.folder)
    if package is None or package.reference != reference:
        sentence = f"the run was made without the script {reference}; name it when the run is asked for"
        raise TrainingFailed(sentence, reason="INVALID_PARAMETERS")
    return package


def _entry_of(told: ScriptParameters) -> str:
    return _ENTRY if told.code or _ENTRY in told.files else _PACKAGE_ENTRY


def _imported(folder: Path, entry: str) -> ModuleType:
    name = module_of(entry)
    sys.path.insert(0, str(folder))
    # A trial of a search has one of its own.
    for each, module in list(sys.modules.items()):
        # A folder without an __init__.py has no file.
        lies_in = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "/")
        if Path(lies_in).is_relative_to(folder):
            del sys.modules[each]
    importlib.invalidate_caches()
    _check_names(folder)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        sentence = f"the script has no {name}.py: give one as `code`, or among `files`"
        raise TrainingFailed(sentence, reason="INVALID_PARAMETERS") from error
    if Path(module.__file__ or "/") != folder.joinpath(*entry.split("/")):
        sentence = f"{entry} is not what is imported as {name}: another file of that name is; rename or leave out one"
        raise TrainingFailed(sentence, reason="INVALID_PARAMETERS")
    return module


def _check_names(folder: Path) -> None:
    """Raise TrainingFailed where the script has a module that is loaded already: its own would never be imported."""
    for name in sorted({path.relative_to(folder).parts[0].removesuffix(".py") for path in folder.rglob("*.py")}):
        if name in sys.modules:
            sentence = f"another module is called {name} as one of the script's is; call the script's otherwise"
            raise TrainingFailed(sentence, reason="INVALID_PARAMETERS")


def _train_of(module: ModuleType) -> Callable[[Context], Any]:
    train: Callable[[Context], Any] | None = getattr(module, "train", None)
    if not callable(train):
        raise TrainingFailed("the script has no function train(context)", reason="INVALID_PARAMETERS")
    return train
