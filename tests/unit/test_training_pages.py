"""What the pages on training list must be all there is: settings and recipes' parameters, with what is built in."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from services.trainer.recipes.keras_mlp import KerasMlpParameters
from services.trainer.recipes.recipe import Parameters
from services.trainer.recipes.row_parameters import RowParameters
from services.trainer.recipes.sklearn_recipe import SklearnParameters
from services.trainer.settings import TrainerSettings
from tests.settings_pages import DOCS, allowed_in, default_of, listed_in

PARAMETER = re.compile(r"^\| `(\w+)` \|(.*?)\| .+ \|$", re.MULTILINE)


def test_the_page_of_settings_has_each_with_its_default_and_what_is_allowed() -> None:
    known = TrainerSettings.model_json_schema()["properties"]
    wanted = {
        name.upper(): (default_of(schema), allowed_in(schema))
        for name, schema in known.items()
        if name.startswith(("trainer_", "dataset_")) or name == "poll_interval_ms"
    }
    found = listed_in("training-settings.md")
    assert {name: (default, allowed) for name, default, allowed in found} == wanted
    assert len(found) == len(wanted), "each once"


@pytest.mark.parametrize(
    ("heading", "parameters"),
    [
        ("## Recipes that learn from rows", RowParameters),
        ("### sklearn", SklearnParameters),
        ("### keras-mlp", KerasMlpParameters),
    ],
)
def test_the_guide_has_each_parameter_of_a_recipe_that_learns_from_rows_with_its_default(
    heading: str, parameters: type[Parameters]
) -> None:
    shared = () if parameters is RowParameters else RowParameters.model_fields
    known = parameters.model_json_schema()["properties"]
    wanted = {name: _written(schema.get("default")) for name, schema in known.items() if name not in shared}
    _, _, after = (DOCS / "training.md").read_text().partition(f"\n{heading}\n")
    found = PARAMETER.findall(re.split(r"^##", after, maxsplit=1, flags=re.MULTILINE)[0])
    assert {name: default.strip() for name, default in found} == wanted
    assert len(found) == len(wanted), "each once"


def _written(default: Any) -> str:
    if default in (None, []):
        return ""
    return default if isinstance(default, str) else json.dumps(default)
