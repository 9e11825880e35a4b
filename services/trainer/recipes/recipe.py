"""What a recipe is. A new one is one file of this folder, and a line of the catalogue.

The service itself imports a recipe's file to know what it takes, so what is heavy (TensorFlow, scikit-learn) is
imported inside `train` alone, in the process of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.task import Outcome


class Parameters(BaseModel):
    """What a recipe can be told: a field each, with its default, its range and a docstring that says what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def told(cls, parameters: Mapping[str, Any]) -> Self:
        """Read what a recipe was told; raises TrainingFailed(INVALID_PARAMETERS), naming each that cannot be meant."""
        try:
            return cls.model_validate(dict(parameters))
        except ValidationError as error:
            said = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False))
            raise TrainingFailed("; ".join(said), reason="INVALID_PARAMETERS") from error


class Recipe(Protocol):
    """A way of training."""

    name: ClassVar[str]
    """As a training config names it: lower case and hyphens."""
    description: ClassVar[str]
    """What it does, in a sentence or two."""
    parameters: ClassVar[type[Parameters]]
    """What it takes."""
    needs: ClassVar[tuple[str, ...]]
    """Modules that have to be installed, such as `tensorflow`."""
    reads_rows: ClassVar[bool]
    """Whether it cannot do without rows."""
    reads_parent: ClassVar[bool]
    """Whether it always begins with the parent version's files, also where the run is no FINETUNE."""

    def train(self, context: Context) -> Outcome:
        """Make a version's files in `context.folder.artifact`, and say what they are.

        Raises:
            TrainingFailed: with a reason of `faults` and a sentence that says what to do. Whatever else is raised is
                told as TRAINING_FAILED, its traceback in the log.
        """
        ...
