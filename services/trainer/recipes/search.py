"""The recipe `search`: many versions by another recipe, each with other parameters, of which the best is kept."""

from __future__ import annotations

from typing import ClassVar

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.provenance import code_sha256, environment
from services.trainer.recipes.recipe import Parameters
from services.trainer.recipes.search_parameters import SearchParameters
from services.trainer.task import Outcome


class Search:
    """Looks for hyper-parameters by optuna; each trial is told as an epoch."""

    name: ClassVar[str] = "search"
    description: ClassVar[str] = (
        "Trains many versions by another recipe, with parameters that optuna chooses by how the ones before did on the "
        "validation rows, and keeps the best."
    )
    parameters: ClassVar[type[Parameters]] = SearchParameters
    needs: ClassVar[tuple[str, ...]] = ("optuna",)
    reads_rows: ClassVar[bool] = True
    reads_parent: ClassVar[bool] = False

    def train(self, context: Context) -> Outcome:
        """Try, and keep the best; see Recipe. A run that is rescued goes on after the last trial that was kept."""
        parameters = SearchParameters.told(context.parameters)
        # Imported here: for the catalogue knows this recipe, and optuna takes a second.
        from services.trainer.recipes.catalogue import find_recipe
        from services.trainer.recipes.search_study import Study

        recipe = find_recipe(parameters.recipe)
        if recipe.reads_parent or recipe.name == self.name:
            sentence = f"a search is over recipes that train; {recipe.name} is none of them"
            raise TrainingFailed(sentence, reason="INVALID_PARAMETERS")
        study = Study(context, parameters, recipe)
        while study.goes_on():
            study.try_once()
        best = study.best()
        ran_with = {**environment("optuna"), **best.outcome.environment}
        outcome = best.outcome
        return Outcome(
            framework=outcome.framework,
            label=outcome.label,
            features=outcome.features,
            input_name=outcome.input_name,
            metrics=outcome.metrics,
            task_type=outcome.task_type,
            classes=outcome.classes,
            environment=ran_with,
            code_sha256=code_sha256(self.name, parameters.model_dump(), ran_with),
            metadata={**outcome.metadata, "search": best.said},
            notes=(*outcome.notes, best.sentence),
        )
