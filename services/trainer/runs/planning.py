"""What a run will be, from what was asked for and what the registry says of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from penstock import Client
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import AlreadyExists as TheyHaveIt
from penstock.errors import NotFound as TheyLackIt
from penstock.errors import PenstockError
from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.trainer.datasets.materialising import Datasets
from services.trainer.executing.resources import Resources
from services.trainer.faults import RegistryUnavailable
from services.trainer.recipes.catalogue import Catalogue
from services.trainer.recipes.recipe import Recipe
from services.trainer.runs.columns import named_columns
from services.trainer.runs.convert import plain_parameters
from services.trainer.runs.models import ExecutorName, NewRun, RunSpec
from services.trainer.runs.splitting import split_of
from services.trainer.scripts.catalog import Scripts
from services.trainer.task import UNKEPT, TrainingType
from services.trainer.validating.measuring import MAX_SLICE_COLUMNS

OWN_PARAMETERS = frozenset({"split", "executor", "resources", "slices", "time_limit_s"})
"""Of a config's parameters, what is the run's and not the recipe's."""
MAX_SLICE_NAME_CHARS = 128


class Planning:
    """Plans runs. `executors`: those that are configured here."""

    def __init__(
        self,
        open_client: Callable[[], Client],
        datasets: Datasets,
        scripts: Scripts,
        catalogue: Catalogue,
        executors: frozenset[ExecutorName],
    ) -> None:
        self._open_client = open_client
        self._datasets = datasets
        self._scripts = scripts
        self._catalogue = catalogue
        self._executors = executors

    def planned(self, new: NewRun) -> RunSpec:
        """Say what a run will be; see the contract for what is raised."""
        with asking_registry(), self._open_client() as client:
            model = _model(client, new)
            parent = new.parent_version or model.production_version or model.latest_version
            if new.parent_version:
                _check_version(client, new.model, new.parent_version)
            if new.version and model.name:
                _check_free(client, new.model, new.version)
        config = model.training_config
        recipe_name = new.recipe or config.recipe
        if not recipe_name:
            raise FailedPrecondition(
                f"nobody has said how {new.model} is trained: say it (penstock model set {new.model} "
                "--recipe NAME --data-source NAME), or name a recipe",
                reason="NO_TRAINING_CONFIG",
            )
        if new.config_version and new.config_version != config.number:
            raise FailedPrecondition(
                f"the training config of {new.model} is number {config.number} now, and number {new.config_version} "
                "is not kept; ask for the latest, with 0",
                reason="CONFIG_VERSION_GONE",
            )
        parameters: dict[str, Any] = {}
        if recipe_name == config.recipe:
            parameters = plain_parameters(config.parameters)
        parameters |= new.parameters
        executor = self._executor(new, parameters)
        own = {name: value for name, value in parameters.items() if name not in OWN_PARAMETERS}
        recipe = self._catalogue.checked(recipe_name, own, here=executor is ExecutorName.LOCAL)
        split_of(parameters)
        _check_resources(parameters)
        _check_time_limit(parameters)
        slices_of(parameters)
        parameters, script = self._scripts.pinned(recipe_name, parameters)
        kind = new.type or (TrainingType.RETRAIN if parent else TrainingType.INITIAL)
        if not parent and (kind is TrainingType.FINETUNE or recipe.reads_parent):
            sentence = f"{new.model} has no version whose weights this could begin with; train its first one"
            raise FailedPrecondition(sentence, reason="NO_PARENT")
        spec = RunSpec(
            model=new.model,
            type=kind,
            recipe=recipe_name,
            executor=executor,
            parameters=parameters,
            data_source=self._data_source(new, config, recipe, parameters),
            config_version=config.number if recipe_name == config.recipe else 0,
            parent_version="" if kind is TrainingType.INITIAL and not recipe.reads_parent else parent,
            trigger=new.trigger,
            new_version=new.version,
            script=script,
        )
        if not model.name:
            with asking_registry(), self._open_client() as client:
                _create(client, new.model)
        return spec

    def _executor(self, new: NewRun, parameters: dict[str, Any]) -> ExecutorName:
        said = new.executor or str(parameters.get("executor", ExecutorName.LOCAL)).upper()
        try:
            executor = ExecutorName(said)
        except ValueError:
            known = ", ".join(each.value.lower() for each in ExecutorName)
            sentence = f"there is no executor {said[:80]!r}; there are {known}"
            raise InvalidArgument.field("parameters.executor", sentence, reason="INVALID_PARAMETERS") from None
        if executor not in self._executors:
            sentence = (
                f"the executor {executor.value.lower()} is not configured here; docs/training.md says which settings "
                "it needs"
            )
            raise FailedPrecondition(sentence, reason="EXECUTOR_NOT_CONFIGURED")
        return executor

    def _data_source(
        self, new: NewRun, config: registry.TrainingConfig, recipe: Recipe, parameters: Mapping[str, Any]
    ) -> str:
        source = new.data_source or config.data_source
        if source:
            # The config's slices may be of other rows than those that are named now; a note says what lacks then.
            slices = slices_of(parameters) if "slices" in new.parameters else ()
            own = {name: value for name, value in parameters.items() if name not in OWN_PARAMETERS}
            self._datasets.check(source, named_columns(recipe, own, slices), split_of(parameters))
        elif recipe.reads_rows:
            sentence = "name where the rows come from: a dataset as NAME or NAME/VERSION, or `traffic`"
            raise InvalidArgument.field("data_source", sentence, reason="INVALID_DATA_SOURCE")
        return source


def slices_of(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the columns by whose values a version is judged; raises InvalidArgument (INVALID_PARAMETERS)."""
    if "slices" not in parameters:
        return ()
    said = parameters["slices"]
    if not isinstance(said, list | tuple) or not 1 <= len(said) <= MAX_SLICE_COLUMNS or not all(map(_names, said)):
        sentence = (
            f"{str(said)[:80]!r} are no slices; they are a list of 1 to {MAX_SLICE_COLUMNS} names of columns, each "
            f"of at most {MAX_SLICE_NAME_CHARS} characters"
        )
        raise InvalidArgument.field("parameters.slices", sentence, reason="INVALID_PARAMETERS")
    return tuple(said)


def _names(said: object) -> bool:
    return isinstance(said, str) and 0 < len(said) <= MAX_SLICE_NAME_CHARS and not UNKEPT.search(said)


@contextmanager
def asking_registry() -> Iterator[None]:
    """Have what the registry does not answer be a fault of ours that may pass; NotFound is let through."""
    try:
        yield
    except TheyLackIt:
        raise
    except PenstockError as error:
        sentence = f"the registry gives no answer: {error.message} ({error.reason})"
        raise RegistryUnavailable(sentence, retry_after_s=1.0) from error


def _model(client: Client, new: NewRun) -> registry.Model:
    """Read the model; one that is not there has no name yet, where the request says how it is trained."""
    try:
        return client.registry.get_model(new.model)
    except TheyLackIt:
        if not new.recipe:
            sentence = f"there is no model {new.model!r}; create it, or name a recipe and it is created"
            raise NotFound(sentence, reason="MODEL_NOT_FOUND") from None
        return registry.Model()


def _create(client: Client, model: str) -> None:
    with suppress(TheyHaveIt):  # another was quicker
        client.registry.create_model(model)


def _check_version(client: Client, model: str, version: str) -> None:
    try:
        client.registry.get_version(model, version)
    except TheyLackIt:
        sentence = f"{model} has no version {version!r}"
        raise NotFound(sentence, reason="VERSION_NOT_FOUND") from None


def _check_free(client: Client, model: str, version: str) -> None:
    with suppress(TheyLackIt):
        client.registry.get_version(model, version)
        sentence = f"{model} has a version {version} already; choose another name for the new one, or none"
        raise AlreadyExists(sentence, reason="VERSION_EXISTS")


def _check_resources(parameters: dict[str, Any]) -> None:
    try:
        Resources.of(parameters.get("resources", {}))
    except ValueError as error:
        raise InvalidArgument.field("parameters.resources", str(error), reason="INVALID_PARAMETERS") from None


def _check_time_limit(parameters: dict[str, Any]) -> None:
    said = parameters.get("time_limit_s", 1)
    if isinstance(said, bool) or not isinstance(said, int | float) or not said > 0:
        sentence = f"{str(said)[:80]!r} is no time; it is a number of seconds above 0"
        raise InvalidArgument.field("parameters.time_limit_s", sentence, reason="INVALID_PARAMETERS")
