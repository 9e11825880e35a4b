"""How a run's rows are divided, as its parameters say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from services.common.errors import InvalidArgument
from services.trainer.datasets.splits import DefaultSplit, Split, SplitBy
from services.trainer.recipes.recipe import Parameters


class SplitParameters(Parameters):
    """The parameter `split` of a training config."""

    by: SplitBy | None = None
    """What decides where a row goes: SEED, TIME or KEY; none: as where there is no split, which is KEY of live traffic
    and SEED of other rows."""
    train_share: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Of the rows."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Of the rows; what is left over is the test's."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """Another seed divides otherwise."""
    column: str = ""
    """Of TIME and KEY: the column that decides."""
    stratify_column: str = ""
    """Of SEED: a column whose values are spread evenly over the parts."""

    @model_validator(mode="after")
    def _together(self) -> SplitParameters:
        if self.train_share + self.validation_share > 1:
            raise ValueError("train_share and validation_share are more than 1 together")
        by_column = self.by in (SplitBy.TIME, SplitBy.KEY)
        if by_column != bool(self.column):
            raise ValueError("TIME and KEY need a column, and nothing else has one; say by what it is: time or key")
        if by_column and self.stratify_column:
            raise ValueError("stratify_column is of SEED alone")
        return self


def split_of(parameters: Mapping[str, Any]) -> Split | DefaultSplit | None:
    """Read the parameter `split`; None: nothing is said. Raises InvalidArgument (INVALID_PARAMETERS)."""
    said = parameters.get("split")
    if said is None:
        return None
    try:
        checked = SplitParameters.model_validate(
            {**said, "by": str(said["by"]).upper()} if isinstance(said, dict) and said.get("by") is not None else said
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(each) for each in ("parameters.split", *first["loc"]))
        raise InvalidArgument.field(where, first["msg"], reason="INVALID_PARAMETERS") from None
    if checked.by is None:
        return DefaultSplit(checked.train_share, checked.validation_share, checked.seed, checked.stratify_column)
    return Split(
        by=checked.by,
        train_share=checked.train_share,
        validation_share=checked.validation_share,
        seed=checked.seed,
        column=checked.column,
        stratify_column=checked.stratify_column,
    )
