"""The recipes by name: what each may be told, and which may be used."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.trainer.recipes.catalogue import RECIPES, Catalogue

CATALOGUE = Catalogue(scripts_enabled=True)


def test_recipes_are_found_by_the_name_that_a_config_has() -> None:
    for offered in CATALOGUE.offered():
        assert CATALOGUE.checked(offered.recipe.name, _least(offered.recipe.name)).name == offered.recipe.name
    assert [offered.recipe.name for offered in CATALOGUE.offered()] == sorted(RECIPES)


def _least(name: str) -> Mapping[str, object]:
    space = {"max_categories": {"type": "int", "low": 2, "high": 9}}
    return {"search": {"recipe": "sklearn", "space": space}}.get(name, {})


def test_every_parameter_says_what_it_is() -> None:
    for recipe in RECIPES.values():
        assert recipe.description
        for name, field in recipe.parameters.model_fields.items():
            assert field.description, f"{recipe.name}.{name}"


def test_a_recipe_that_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match="script") as refused:
        CATALOGUE.checked("sorcery", {})
    assert refused.value.reason == "UNKNOWN_RECIPE"
    assert refused.value.violations[0].field == "recipe"


def test_a_parameter_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidArgument) as refused:
        CATALOGUE.checked("script", {"code": 7})
    assert refused.value.reason == "INVALID_PARAMETERS"
    assert [violation.field for violation in refused.value.violations] == ["parameters.code"]


@pytest.mark.parametrize(
    ("estimator", "sentence"),
    [
        ("RandomForest", "nearest to it are RandomForestRegressor, RandomForestClassifier"),
        ("logisticregression", "nearest to it are LogisticRegression, "),
        ("Nope", "there are ARDRegression, AdaBoostClassifier, "),
        ("StackingClassifier", "no estimator 'StackingClassifier' that becomes ONNX"),
    ],
)
def test_an_estimator_that_nobody_knows_is_refused_with_those_that_are_near(estimator: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        CATALOGUE.checked("sklearn", {"estimator": estimator})
    assert refused.value.reason == "INVALID_PARAMETERS"
    assert [violation.field for violation in refused.value.violations] == ["parameters.estimator"]
    assert sentence in refused.value.message


def test_a_search_among_estimators_that_nobody_knows_is_refused() -> None:
    space = {"estimator": {"type": "categorical", "choices": ["LogisticRegression", "Nope"]}}
    with pytest.raises(InvalidArgument, match="no estimator 'Nope'"):
        CATALOGUE.checked("search", {"recipe": "sklearn", "space": space})


def test_scripts_are_allowed_by_policy_only() -> None:
    with pytest.raises(FailedPrecondition, match="PENSTOCK_TRAINER_SCRIPTS_ENABLED") as refused:
        Catalogue(scripts_enabled=False).checked("script", {})
    assert refused.value.reason == "RECIPE_NOT_ALLOWED"
    refusals = {offered.recipe.name: offered.refusal for offered in Catalogue(scripts_enabled=False).offered()}
    assert "PENSTOCK_TRAINER_SCRIPTS_ENABLED" in refusals["script"]
    assert {offered.recipe.name: offered.refusal for offered in CATALOGUE.offered()}["script"] == ""


def test_a_recipe_whose_libraries_are_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(RECIPES["script"]), "needs", ("a_library_like_no_other",))
    with pytest.raises(FailedPrecondition, match="pip install a_library_like_no_other") as refused:
        CATALOGUE.checked("script", {})
    assert refused.value.reason == "RECIPE_NOT_ALLOWED"
    assert CATALOGUE.checked("script", {}, here=False).name == "script"
