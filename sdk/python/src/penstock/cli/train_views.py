"""Training runs and recipes, as tables and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.struct_pb2 import Value
from rich.console import Group, RenderableType
from rich.text import Text

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.cli.formats import say_count, say_duration, say_time, say_value
from penstock.cli.ids import short_ids
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, lines, styled

_COLUMNS = (
    Column("run", give="id"),
    Column("state"),
    Column("model", give="cut", least_width=10),
    Column("made"),
    Column("valid"),
    Column("why", optional=True),
    Column("recipe", optional=True),
    Column("epochs", "right", optional=True),
    Column("took", "right", optional=True),
    Column("type", optional=True),
    Column("created", optional=True),
)
_RECIPE_COLUMNS = (
    Column("recipe"),
    Column("here"),
    Column("what it does", give="wrap", least_width=24),
    Column("why not", give="wrap", least_width=20),
)
_PARAMETER_COLUMNS = (
    Column("parameter"),
    Column("default", give="cut", least_width=8),
    Column("what it is", give="wrap", least_width=24),
)
_METRIC_COLUMNS = (Column("metric"), Column("train", "right"), Column("validation", "right"), Column("test", "right"))
_STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "validating": "cyan",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "dim",
}
_SAID = {
    pb.TRAINING_RUN_STATE_COMPLETED: "outcome",
    pb.TRAINING_RUN_STATE_FAILED: "error",
    pb.TRAINING_RUN_STATE_CANCELLED: "was at",
}
"""What a run's message is once it has ended."""
_LOWER_IS_BETTER = ("loss", "mse", "mae", "error", "brier")
_FIRST = ("loss", "val_loss", "validation_loss", "accuracy", "rmse", "value")
"""Metrics that people look for first."""


def shown_first(name: str) -> tuple[int, str]:
    """Sort metrics: the loss first, then what people look for, then by name."""
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def metric_word(value: float) -> str:
    """Write a metric to four significant digits."""
    return f"{value:.4g}"


def state_of(run: pb.TrainingRun) -> str:
    """Say a run's state as options take it."""
    return pb.TrainingRunState.Name(run.state).removeprefix("TRAINING_RUN_STATE_").lower()


def runs_table(output: Output, runs: Sequence[pb.TrainingRun]) -> RenderableType:
    """Lay out runs, one a row."""
    rows = [
        (
            run.id,
            _state(run),
            run.model,
            run.new_version,
            _validity(run),
            run.reason,
            run.recipe,
            _epochs(run),
            _took(run),
            _type(run),
            output.time(time_of(run.create_time)),
        )
        for run in runs
    ]
    return output.table(_COLUMNS, rows, empty="no run: `penstock train start MODEL` makes one")


def run_facts(output: Output, run: pb.TrainingRun) -> RenderableType:
    """Lay out what there is to know of a run, with its metrics."""
    trigger = run.trigger
    parts = (("train", run.train_count), ("validation", run.validation_count), ("test", run.test_count))
    rows = ", ".join(f"{count:,} {name}" for name, count in parts if count)
    columns = ", ".join(run.feature_columns)
    config = f", config {run.config_version}" if run.config_version else ""
    known = [
        ("model", run.model),
        ("made", f"{run.new_version}, {run.new_version_stage.lower()}" if run.new_version else ""),
        ("validation", _validity(run)),
        ("recipe", f"{run.recipe}, {_type(run)}{config}"),
        ("told", _told(run)),
        ("data", run.dataset or run.data_source),
        ("rows", rows),
        ("predicts", run.label_column),
        ("from", columns if len(columns) <= 200 else f"{say_count(len(run.feature_columns), 'column')}"),
        ("comes after", run.parent_version),
        ("epochs", _epochs(run)),
        ("notes", lines(run.notes)),
        (_SAID.get(run.state, "at"), f"{run.message} [{run.reason}]" if run.reason else run.message),
        ("asked for by", trigger.requested_by),
        ("answers", f"retraining request {trigger.retraining_request_id}" if trigger.retraining_request_id else ""),
        ("because", trigger.note),
        ("executor", pb.TrainingExecutor.Name(run.executor).removeprefix("TRAINING_EXECUTOR_").lower()),
        ("attempt", f"{run.attempt:,}" if run.attempt > 1 else ""),
        ("profile", run.profile_id),
        ("code", say_value(run.code_sha256) if run.code_sha256 else ""),
        ("libraries", ", ".join(f"{name} {version}" for name, version in sorted(run.environment.items()))),
        ("created", say_time(time_of(run.create_time))),
        ("took", _took(run)),
    ]
    facts = output.facts(Text.assemble((run.id, "bold"), "  ", _state(run)), known)
    if not (run.train_metrics or run.validation_metrics or run.test_metrics):
        return facts
    return Group(facts, Text(), _metrics_table(output, run))


def recipes_table(output: Output, recipes: Sequence[pb.Recipe]) -> RenderableType:
    """Lay out the recipes."""
    rows = [(recipe.name, _here(recipe), recipe.description, recipe.refusal) for recipe in recipes]
    return output.table(_RECIPE_COLUMNS, rows, empty="this trainer knows no recipe")


def recipe_facts(output: Output, recipe: pb.Recipe) -> RenderableType:
    """Lay out what a recipe takes."""
    facts = output.facts(
        Text.assemble((recipe.name, "bold"), "  ", _here(recipe)),
        [("does", recipe.description), ("why not", recipe.refusal)],
    )
    rows = [
        (
            each.name,
            say_value(_plain(each.default_value)) if each.HasField("default_value") else "required",
            each.description,
        )
        for each in recipe.parameters
    ]
    return Group(facts, Text(), output.table(_PARAMETER_COLUMNS, rows, empty="it takes nothing"))


def comparison(output: Output, runs: Sequence[pb.TrainingRun]) -> RenderableType:
    """Lay out runs side by side: what differs among what they were told, and their metrics, the best in bold."""
    heads = short_ids([run.id for run in runs]) if output.stdout.is_terminal else {run.id: run.id for run in runs}
    columns = [Column("run"), *(Column(heads[run.id], "right", give="wrap", named=True) for run in runs)]
    facts: list[tuple[str, list[str]]] = [
        ("model", [run.model for run in runs]),
        ("made", [run.new_version for run in runs]),
        ("recipe", [run.recipe for run in runs]),
        ("data", [run.dataset or run.data_source for run in runs]),
        ("state", [state_of(run) for run in runs]),
        ("took", [_took(run) for run in runs]),
    ]
    told = [_parameters(run) for run in runs]
    facts += [(name, [say_value(each.get(name)) for each in told]) for name in _differing(told)]
    rows: list[Sequence[str | Text]] = [[name, *values] for name, values in facts]
    for part, metrics in (("test", [run.test_metrics for run in runs]), ("train", [run.train_metrics for run in runs])):
        names = sorted({name for each in metrics for name in each}, key=shown_first)
        rows += [[f"{part} {name}", *_best_in_bold(name, [each.get(name) for each in metrics])] for name in names]
    return output.table(columns, rows, empty="nothing to compare")


def _best_in_bold(name: str, values: Sequence[float | None]) -> list[str | Text]:
    known = [value for value in values if value is not None]
    lower = any(word in name.partition("[")[0] for word in _LOWER_IS_BETTER)
    best = (min(known) if lower else max(known)) if len(set(known)) > 1 else None
    return [
        "" if value is None else Text(metric_word(value), style="bold green" if value == best else "")
        for value in values
    ]


def _differing(told: Sequence[Mapping[str, Any]]) -> list[str]:
    names = sorted({name for each in told for name in each})
    return [name for name in names if any(each.get(name) != told[0].get(name) for each in told)]


def _metrics_table(output: Output, run: pb.TrainingRun) -> RenderableType:
    parts = (run.train_metrics, run.validation_metrics, run.test_metrics)
    names = sorted({name for part in parts for name in part}, key=shown_first)
    rows = [(name, *(metric_word(part[name]) if name in part else "" for part in parts)) for name in names]
    return output.table(_METRIC_COLUMNS, rows, empty="no metrics")


def _told(run: pb.TrainingRun) -> str:
    return ", ".join(f"{name}={say_value(value)}" for name, value in sorted(_parameters(run).items()))


def _parameters(run: pb.TrainingRun) -> dict[str, Any]:
    """Give what a run was told, whole numbers as such at any depth: on the wire they are doubles."""
    return {name: _plain(value) for name, value in run.parameters.fields.items()}


def _default(parameter: pb.RecipeParameter) -> str:
    return say_value(_plain(parameter.default_value)) if parameter.HasField("default_value") else "required"


def _here(recipe: pb.Recipe) -> Text:
    return Text("yes", style="green") if recipe.allowed else Text("no", style="yellow")


def _state(run: pb.TrainingRun) -> Text:
    word = state_of(run)
    if run.HasField("cancel_time") and not run.HasField("end_time"):
        return Text(f"{word}, asked to end", style="yellow")
    return styled(word, _STYLES)


def _type(run: pb.TrainingRun) -> str:
    return pb.TrainingType.Name(run.type).removeprefix("TRAINING_TYPE_").lower()


def _validity(run: pb.TrainingRun) -> str | Text:
    if not run.HasField("validation_passed"):
        return ""
    return Text("passed", style="green") if run.validation_passed else Text("not passed", style="yellow")


def _epochs(run: pb.TrainingRun) -> str:
    if not run.done_epochs:
        return ""
    return f"{run.done_epochs:,}" + (f" of {run.total_epochs:,}" if run.total_epochs else "")


def _took(run: pb.TrainingRun) -> str:
    return say_duration(run.duration_ms / 1000) if run.duration_ms else ""


def _plain(value: Value) -> Any:
    from penstock.values import from_value  # loads numpy, which `--help` must not wait for

    return from_value(value)
