"""Which columns a run names before it begins, so that one that the rows do not have is refused at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.trainer.recipes.catalogue import check_parameters, find_recipe
from services.trainer.recipes.recipe import Recipe
from services.trainer.recipes.row_parameters import RowParameters
from services.trainer.recipes.search_parameters import SearchParameters


def named_columns(
    recipe: Recipe, parameters: Mapping[str, Any], slices: Sequence[str], *, field: str = "parameters"
) -> dict[str, Sequence[str]]:
    """Give the columns that a recipe needs by what it is told, and those of the slices, by the field that names them.

    Of a search they are those of the recipe that it is over; what a script reads, nobody knows but itself.
    """
    told = check_parameters(recipe, parameters, field=field)
    named: dict[str, Sequence[str]] = {"parameters.slices": slices}
    if isinstance(told, SearchParameters):
        inner, example = find_recipe(told.recipe), next(told.examples())
        return named_columns(inner, example, slices, field=f"{field}.parameters")
    if isinstance(told, RowParameters):
        named[f"{field}.label_column"] = [told.label_column]
        named[f"{field}.feature_columns"] = told.feature_columns
    return named
