"""The recipes there are, by name, and what each may be told."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from services.common.errors import FailedPrecondition, FieldViolation, InvalidArgument
from services.trainer.recipes.keras_mlp import KerasMlp
from services.trainer.recipes.onnx_optimize import OnnxOptimize
from services.trainer.recipes.onnx_quantize import OnnxQuantize
from services.trainer.recipes.recipe import Parameters, Recipe
from services.trainer.recipes.script import Script
from services.trainer.recipes.search import Search
from services.trainer.recipes.search_parameters import SearchParameters
from services.trainer.recipes.sklearn_recipe import Sklearn

SCRIPT: Final = Script.name
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (KerasMlp(), OnnxOptimize(), OnnxQuantize(), Script(), Search(), Sklearn())
}
"""Every recipe, by name. A new one is a line here."""


def find_recipe(name: str, *, field: str = "recipe") -> Recipe:
    """Give a recipe; raises InvalidArgument(UNKNOWN_RECIPE), which lists those there are."""
    recipe = RECIPES.get(name)
    if recipe is None:
        known = ", ".join(sorted(RECIPES))
        raise InvalidArgument.field(
            field, f"there is no recipe {name[:80]!r}; there are {known}", reason="UNKNOWN_RECIPE"
        )
    return recipe


def check_parameters(recipe: Recipe, parameters: Mapping[str, Any], *, field: str = "parameters") -> Parameters:
    """Read what a recipe is told, its defaults filled in; `field` is where it stands in the request.

    Raises:
        InvalidArgument: INVALID_PARAMETERS, with a violation for each parameter that is unknown, of a wrong type or
            out of its range.
    """
    try:
        return recipe.parameters.model_validate(dict(parameters))
    except ValidationError as error:
        violations = tuple(_violation(recipe, field, each) for each in error.errors(include_url=False))
        sentence = "; ".join(f"{each.field}: {each.description}" for each in violations)
        raise InvalidArgument(sentence, reason="INVALID_PARAMETERS", violations=violations) from error


@dataclass(frozen=True, slots=True)
class Offered:
    """A recipe, and why it can't be used here: what to do about it; '' where it can."""

    recipe: Recipe
    refusal: str


class Catalogue:
    """The recipes, by the policy of one trainer.

    `scripts_enabled`: whether whoever may start a run may run code of their own.
    """

    def __init__(self, *, scripts_enabled: bool) -> None:
        self._scripts_enabled = scripts_enabled

    def offered(self) -> Sequence[Offered]:
        """List all recipes, by name."""
        return [Offered(RECIPES[name], self.refusal(name)) for name in sorted(RECIPES)]

    def checked(self, name: str, parameters: Mapping[str, Any], *, here: bool = True) -> Recipe:
        """Give a recipe that may be used with these parameters; with `here` it is to run where this process does.

        Raises:
            InvalidArgument: UNKNOWN_RECIPE, INVALID_PARAMETERS (naming each parameter).
            FailedPrecondition: RECIPE_NOT_ALLOWED: policy says no, or a module is not installed.
        """
        recipe = find_recipe(name)
        told = check_parameters(recipe, parameters)
        if isinstance(told, SearchParameters):
            self._check_search(told, here=here)
        if refusal := self.refusal(name, here=here):
            raise FailedPrecondition(f"the recipe {name} can't be used: {refusal}", reason="RECIPE_NOT_ALLOWED")
        return recipe

    def _check_search(self, told: SearchParameters, *, here: bool) -> None:
        """Check what a search is over, as if it were started with both ends of its space, and with each choice."""
        inner = find_recipe(told.recipe, field="parameters.recipe")
        if inner.reads_parent or inner.name == Search.name:
            sentence = f"a search is over recipes that train, and {inner.name} is none of them"
            raise InvalidArgument.field("parameters.recipe", sentence, reason="INVALID_PARAMETERS")
        for example in told.examples():
            self.checked(inner.name, example, here=here)

    def reads_parent(self, name: str) -> bool:
        """Whether a recipe always begins with the parent; raises InvalidArgument(UNKNOWN_RECIPE)."""
        return find_recipe(name).reads_parent

    def refusal(self, name: str, *, here: bool = True) -> str:
        """Say why a recipe can't be used, and what to do; '' where it can."""
        recipe = find_recipe(name)
        if name == SCRIPT and not self._scripts_enabled:
            return "it runs code of whoever starts a run; set PENSTOCK_TRAINER_SCRIPTS_ENABLED=true to allow it"
        missing = [module for module in recipe.needs if here and importlib.util.find_spec(module) is None]
        if not missing:
            return ""
        return (
            f"it needs {', '.join(missing)}, which is not installed where the trainer runs; install it there "
            f"(pip install {' '.join(missing)}), or name an executor that has it"
        )


def _violation(recipe: Recipe, field: str, error: Mapping[str, Any]) -> FieldViolation:
    place: Sequence[str | int] = error["loc"]
    path = ".".join([field, *map(str, place)])
    if error["type"] == "extra_forbidden":
        known = ", ".join(recipe.parameters.model_fields) or "none"
        return FieldViolation(path, f"the recipe {recipe.name} has no such parameter; it has {known}")
    return FieldViolation(path, str(error["msg"]))
