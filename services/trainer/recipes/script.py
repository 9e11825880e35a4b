"""A script of your own: a file with `train(context)`, or a package of several."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.recipe import Parameters
from services.trainer.task import Outcome

MAX_CODE_CHARS: Final = 65_536
_MODULE: Final = "train"


class ScriptParameters(Parameters):
    """What a script is; every other parameter is the script's own, as `context.parameters`."""

    model_config = ConfigDict(extra="allow")

    code: Annotated[str, Field(max_length=MAX_CODE_CHARS)] = ""
    """Python with a function `train(context)`, at most 65,536 characters."""


class Script:
    """Runs `train(context)` of a file of yours."""

    name: ClassVar[str] = "script"
    description: ClassVar[str] = "Python of your own, with a function train(context); see docs/training.md."
    parameters: ClassVar[type[Parameters]] = ScriptParameters
    needs: ClassVar[tuple[str, ...]] = ()
    reads_rows: ClassVar[bool] = False
    reads_parent: ClassVar[bool] = False

    def train(self, context: Context) -> Outcome:
        """Run the script; raises TrainingFailed where it is none, or gives back what is no outcome."""
        told = ScriptParameters.model_validate(dict(context.parameters))
        if told.code:
            (context.folder.script / f"{_MODULE}.py").write_text(told.code)
        outcome = _train_of(_imported(context.folder.script))(context)
        if not isinstance(outcome, Outcome):
            sentence = f"train(context) gave back a {type(outcome).__name__}; give back an Outcome"
            raise TrainingFailed(sentence, reason="INVALID_OUTCOME")
        return outcome


def _imported(folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        raise TrainingFailed(f"the script has no {_MODULE}.py", reason="INVALID_PARAMETERS") from error


def _train_of(module: ModuleType) -> Callable[[Context], Any]:
    train = getattr(module, "train", None)
    if not callable(train):
        raise TrainingFailed("the script has no function train(context)", reason="INVALID_PARAMETERS")
    return train  # type: ignore[no-any-return]
