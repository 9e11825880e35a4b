"""`penstock apply`: a set of models, and how they are watched, as a file says."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.exits import failure_of
from penstock.cli.formats import say_bytes, say_value
from penstock.cli.model_deleting import confirm
from penstock.cli.model_stages import Approver, login_name
from penstock.cli.options import Json, NoColor, Token, Url, Yes
from penstock.cli.output import Output, printable

if TYPE_CHECKING:
    from penstock.cli.suites.plan import Plan
    from penstock.cli.suites.schema import Suite
    from penstock.cli.suites.steps import Change, Run, Step
    from penstock.errors import PenstockError

_STYLES = {"+": "green", "~": "yellow", "-": "red", "!": "bold yellow"}
_SIGNS = {
    "create channel": "+",
    "create model": "+",
    "create alert rule": "+",
    "register version": "+",
    "fetch version": "+",
    "restore version": "+",
    "delete alert rule": "-",
    "delete alias": "-",
    "delete version": "-",
    "delete model": "-",
}
# Waiting is no change; a model's own line stands above its changes.
_HIDDEN = ("begin fetch", "wait until ready")
_DELETING = ("delete alert rule", "delete alias", "delete version", "delete model")
_OF_MODEL = ("create model", "change model", "delete model")


def apply(
    file: Annotated[
        Path,
        typer.Option(
            "--file", "-f", metavar="FILE", exists=True, dir_okay=False, help="The suite file.", show_default=False
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what this suite made and the file no longer names.")
    ] = False,
    yes: Yes = False,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; for moves that have no note.")] = "",
    approver: Approver = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Bring models, and how they are watched, to what a suite file says: show what differs, ask, and do it.

    Done again, there is nothing to do. What breaks half-way goes on where it broke when it is run again.
    """
    from penstock.cli.suites.plan import Planner, in_order
    from penstock.cli.suites.schema import read_suite
    from penstock.cli.suites.steps import Run
    from penstock.cli.suites.watching import WatchPlanner

    output = Output(as_json=as_json, no_color=no_color)
    suite = read_suite(file)
    with ExitStack() as stack:
        registry = stack.enter_context(connect(Service.REGISTRY, url, token)).registry
        monitoring = None
        fetcher = functools.cache(lambda: stack.enter_context(connect(Service.FETCHER, None, token)).fetcher)
        with output.spinner(f"comparing {file} with what is there"):
            plan = Planner(suite, registry, fetcher, prune, lambda: approver or login_name(), note).plan()
            if suite.is_watched:
                monitoring = stack.enter_context(connect(Service.MONITORING, None, token)).monitoring
                watching = WatchPlanner(suite, monitoring, plan.pruned, note, dry_run)
                steps = in_order((*plan.steps, *watching.plan()))
                plan = replace(plan, steps=steps, kept=(*plan.kept, *watching.kept))
        _show(output, suite, plan)
        if not plan.steps or dry_run:
            output.answer(_document(suite, plan, dry_run=dry_run))
            return
        confirm(output, f"apply {suite.name}?", yes=yes)
        _carry_out(suite, plan, Run(registry, output, fetcher, monitoring))


def _carry_out(suite: Suite, plan: Plan, run: Run) -> None:
    """Take the steps in order.

    A step that fails ends its model's, or those that tell its channel, and all deleting; the others go on, unless
    nothing answers any more, or not to this key. What was done and what was not is said, and the first failure raised.
    """
    from penstock.errors import PenstockError

    output = run.output
    done: set[int] = set()
    failures: dict[int, PenstockError | OSError] = {}
    try:
        for number, step in enumerate(plan.steps):
            failed = {plan.steps[each].subject for each in failures}
            if step.is_ended_by(failed) or (failed and step.action in _DELETING):
                continue
            try:
                step.do(run)
            except (PenstockError, OSError) as error:
                failures[number] = error
                _, message = _words(error)
                output.say(Text.assemble(("✘ ", "bold red"), f"{_headline(step)}: {printable(message)}"))
                if _ends_all(error):
                    break
                continue
            done.add(number)
            if step.action not in _HIDDEN:
                output.say(Text.assemble(("✔ ", "green"), _headline(step)))
    finally:
        _say_what_is_left(run, plan.steps, done | failures.keys())
        output.answer(_document(suite, plan, dry_run=False, done=done, failures=failures))
        if len(done) < len(plan.steps):
            output.note("run it again to go on from here")
    for failure in failures.values():
        if _words(failure)[0] == "ETAG_MISMATCH":
            failure.add_note("somebody changed it since it was compared: run this again to see what differs now")
        raise failure
    output.say(Text(f"{suite.name} is as {suite.file} says"))


def _ends_all(error: Exception) -> bool:
    """Say whether the other models' steps would only meet the same."""
    from penstock.errors import DeadlineExceeded, PenstockError, Unauthenticated, Unavailable

    if isinstance(error, PenstockError) and error.reason == "VALIDATION_TIMEOUT":
        return False  # one version's validation takes long; the registry itself answers
    return isinstance(error, (Unavailable, DeadlineExceeded, Unauthenticated))


def _words(error: PenstockError | OSError) -> tuple[str, str]:
    """Give an error's reason and message."""
    told = failure_of(error) if isinstance(error, OSError) else error
    return told.reason, told.message


def _say_what_is_left(run: Run, steps: Sequence[Step], told: set[int]) -> None:
    for number, step in enumerate(steps):
        if number in told or step.action in _HIDDEN:
            continue
        fetch = run.fetches.get((step.model, step.version)) if step.action == "fetch version" else None
        said = " goes on by itself" if fetch else " was not done"
        run.output.say(Text.assemble(("· ", "dim"), _headline(step), (said, "dim")))
        if fetch:
            run.output.note(f"to see it again: penstock fetch watch {fetch}; to end it: penstock fetch cancel {fetch}")


def _show(output: Output, suite: Suite, plan: Plan) -> None:
    shown = _by_model(suite, plan)
    for model, steps in groupby(shown, key=lambda step: step.model):
        for line in _model_lines(model, list(steps)):
            output.say(line)
    for kept in plan.kept:
        output.say(_line("!", printable(kept), 0))
    if not shown:
        output.say(Text(f"nothing to do: {suite.name} is as {suite.file} says"))
        return
    counts = {sign: sum(_sign(step) == sign for step in shown) for sign in ("+", "~", "-")}
    upload = f"; {say_bytes(plan.size_bytes)} to upload" if plan.size_bytes else ""
    fetch = f"; {say_bytes(plan.fetch_bytes)} to fetch" if plan.fetch_bytes else ""
    said = f"{counts['+']} to create, {counts['~']} to change, {counts['-']} to delete{upload}{fetch}"
    output.say(Text(said, style="bold"))


def _by_model(suite: Suite, plan: Plan) -> list[Step]:
    """Order the steps as the file has its models, and within one as it has its versions; aliases stand below."""
    models = {"": -1} | {spec.name: number for number, spec in enumerate(suite.models)}
    versions = {(spec.name, each.version): number for spec in suite.models for number, each in enumerate(spec.versions)}
    last = len(models) + len(versions)

    def place(step: Step) -> tuple[int, str, bool, bool, int, str]:
        position = versions.get((step.model, step.version), last)
        of_version = step.action not in _OF_MODEL
        return models.get(step.model, last), step.model, of_version, bool(step.alias), position, step.version

    return sorted((step for step in plan.steps if step.action not in _HIDDEN), key=place)


def _model_lines(model: str, steps: list[Step]) -> Iterator[Text]:
    if not model:
        for step in steps:
            yield from _watch_lines(step, 0)
        return
    whole = next((step for step in steps if step.action in _OF_MODEL), None)
    sign = _sign(whole) if whole else "~"
    says = f", {whole.says}" if whole and whole.says else ""
    yield _line(sign, f"model {model}{says}", 0)
    if whole:
        yield from _change_lines(whole.changes, 1)
    for version, of_version in groupby((step for step in steps if step is not whole), key=_group):
        for number, step in enumerate(of_version):
            yield from _step_lines(version, step, first=number == 0)


def _group(step: Step) -> str:
    return "" if step.alias else step.version


def _watch_lines(step: Step, depth: int) -> Iterator[Text]:
    yield _line(_sign(step), printable(f"{step.watched} {step.name}".rstrip()), depth)
    yield from _change_lines(step.changes, depth + 1)


def _step_lines(version: str, step: Step, *, first: bool) -> Iterator[Text]:
    if step.watched:
        yield from _watch_lines(step, 1)
        return
    if step.alias:
        (change,) = step.changes
        sign = "-" if change.after is None else "~" if change.before else "+"
        yield _line(sign, _change_words(change), 1)
        return
    if step.action == "move version":
        if first:
            yield _line("~", f"version {version}", 1)
        yield _line("~", f"stage: {printable(step.says)}", 2)
        if step.approval:
            yield Text(" " * 10 + printable(step.approval))
        return
    if first or step.action != "change version":
        verbs = {"restore version": "restore ", "validate version": "validate again ", "fetch version": "fetch "}
        verb = verbs.get(step.action, "")
        says = f"  {printable(step.says)}" if step.says else ""
        yield _line(_sign(step), f"{verb}version {version}{says}", 1)
    yield from _change_lines(step.changes, 2)


def _change_lines(changes: Sequence[Change], depth: int) -> Iterator[Text]:
    for change in changes:
        sign = "+" if change.before in (None, "", [], {}) else "-" if change.after is None else "~"
        yield _line(sign, _change_words(change), depth)


def _change_words(change: Change) -> str:
    if change.before in (None, "", [], {}):
        return printable(f"{change.field}: {say_value(change.after)}")
    return printable(f"{change.field}: {say_value(change.before)} → {say_value(change.after)}")


def _line(sign: str, words: str, depth: int) -> Text:
    return Text.assemble("    " * depth, (f"{sign} ", _STYLES[sign]), words)


def _sign(step: Step) -> str:
    if step.action == "set alias":
        return "~" if step.changes[0].before else "+"
    return _SIGNS.get(step.action, "~")


def _headline(step: Step) -> str:
    if step.watched:
        of = f" of {step.model}" if step.model else ""
        return printable(f"{step.action} {step.name}".rstrip() + of)
    what = f"{step.model} {step.alias or step.version}".rstrip()
    return f"{step.action} {what}" if not step.alias else f"{step.action} {what} → {step.version}"


def _document(
    suite: Suite,
    plan: Plan,
    *,
    dry_run: bool,
    done: Collection[int] = (),
    failures: Mapping[int, PenstockError | OSError] | None = None,
) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "file": str(suite.file),
        "dry_run": dry_run,
        "upload_bytes": plan.size_bytes,
        "fetch_bytes": plan.fetch_bytes,
        "steps": [
            {
                "action": step.action.value.replace(" ", "_"),
                "model": step.model,
                "version": step.version,
                "alias": step.alias,
                "name": step.name,
                "changes": [{"field": each.field, "before": each.before, "after": each.after} for each in step.changes],
                "upload_bytes": step.size_bytes,
                "fetch_bytes": step.fetch_bytes,
                "done": number in done,
            }
            for number, step in enumerate(plan.steps)
        ],
        "kept": list(plan.kept),
        "failures": [
            {"model": step.model, "name": step.name, "reason": reason, "message": message}
            for step, (reason, message) in (
                (plan.steps[number], _words(error)) for number, error in (failures or {}).items()
            )
        ],
    }
