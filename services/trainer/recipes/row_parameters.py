"""What recipes that learn from rows have in common to be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from services.trainer.recipes.recipe import Parameters

ColumnName = Annotated[str, Field(min_length=1, max_length=128)]


class RowParameters(Parameters):
    """Which columns are learned from, and what is learned."""

    label_column: ColumnName = "label"
    """The column that is to be predicted; rows without a value in it are left out."""
    feature_columns: Annotated[tuple[ColumnName, ...], Field(max_length=10_000)] = ()
    """The columns to learn from, in this order; none: all that numbers, booleans or texts of few kinds stand in, but
    for identifiers (`id`, `uuid`, and names that end in `_id` or `_uuid`), times, and what traffic has beside its
    features."""
    ignore_columns: Annotated[tuple[ColumnName, ...], Field(max_length=10_000)] = ()
    """Columns not to learn from."""
    task: Literal["auto", "binary-classification", "classification", "regression"] = "auto"
    """What is learned; auto: labels that are texts, booleans, two different whole numbers or at most 20 of which each
    stands in two rows or more on average are classes, of which two are binary; other numbers are a regression's."""
    max_categories: Annotated[int, Field(ge=2, le=1_000)] = 50
    """A text column with more kinds of text is not learned from; one of `feature_columns` is, by its most frequent."""
    scaling: Literal["standard", "none"] = "standard"
    """standard: numbers less their mean, by their standard deviation, as the training rows have them."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The same seed on the same rows gives the same version, on the same kind of machine."""

    @model_validator(mode="after")
    def _columns_are_apart(self) -> RowParameters:
        both = {self.label_column, *self.ignore_columns} & set(self.feature_columns)
        if both:
            raise ValueError(f"{min(both)!r} is to be learned from, and is the label or to be ignored; name it once")
        if len(set(self.feature_columns)) < len(self.feature_columns):
            raise ValueError("feature_columns names a column twice")
        return self
