"""The `penstock` command's commands: parse, run, and say what failed in one sentence."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

try:
    import typer
    import typer.main
except ModuleNotFoundError:  # the SDK brings the command's files, and not the packages that only the command needs
    sys.exit("penstock: the command needs more than the SDK: pip install 'penstock[cli]' [CLI_NOT_INSTALLED]")

from penstock.cli import (
    alert,
    apply,
    bench,
    cache,
    dataset,
    drift,
    embed,
    events,
    feature,
    feedback,
    fetch,
    generate,
    job,
    key,
    lineage,
    metrics,
    model,
    monitoring,
    predict,
    profile,
    quality,
    rank,
    retraining,
    session,
    suite,
    train,
    validate,
)
from penstock.cli.commands import HELP_OPTIONS, CommandTree
from penstock.cli.exits import ExitCode, epilogue, failure_of
from penstock.cli.output import complain

app = typer.Typer(
    name="penstock",
    cls=CommandTree,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": HELP_OPTIONS},
    epilog=epilogue(),
)
_RUN, _KEEP, _USE, _WATCH = "Run the suite", "Keep models", "Use them", "Watch them"
app.command(rich_help_panel=_RUN)(suite.up)
app.command(rich_help_panel=_RUN)(suite.down)
app.command(rich_help_panel=_RUN)(suite.status)
app.add_typer(key.app, name="key", rich_help_panel=_RUN)
app.command(rich_help_panel=_KEEP)(apply.apply)
app.add_typer(model.app, name="model", rich_help_panel=_KEEP)
app.add_typer(fetch.app, name="fetch", rich_help_panel=_KEEP)
app.add_typer(dataset.app, name="dataset", rich_help_panel=_KEEP)
app.add_typer(train.app, name="train", rich_help_panel=_KEEP)
app.command(rich_help_panel=_KEEP, epilog=validate.EXAMPLES)(validate.validate)
app.add_typer(feature.app, name="feature", rich_help_panel=_KEEP)
app.command(rich_help_panel=_USE)(predict.predict)
app.command(rich_help_panel=_USE, epilog=generate.EXAMPLES)(generate.generate)
app.command(rich_help_panel=_USE, epilog=embed.EXAMPLES)(embed.embed)
app.command(rich_help_panel=_USE, epilog=rank.EXAMPLES)(rank.rank)
app.add_typer(job.app, name="job", rich_help_panel=_USE)
app.add_typer(session.app, name="session", rich_help_panel=_USE)
app.add_typer(cache.app, name="cache", rich_help_panel=_USE)
app.add_typer(bench.app, name="bench", rich_help_panel=_USE)
app.command(rich_help_panel=_WATCH)(feedback.feedback)
app.add_typer(events.app, name="events", rich_help_panel=_WATCH)
app.command(rich_help_panel=_WATCH, epilog=metrics.EXAMPLES)(metrics.metrics)
app.add_typer(profile.app, name="profile", rich_help_panel=_WATCH)
app.add_typer(drift.app, name="drift", rich_help_panel=_WATCH)
app.add_typer(quality.app, name="quality", rich_help_panel=_WATCH)
app.add_typer(alert.app, name="alert", rich_help_panel=_WATCH)
app.add_typer(retraining.app, name="retraining", rich_help_panel=_WATCH)
app.command(rich_help_panel=_WATCH, epilog=lineage.EXAMPLES)(lineage.lineage)
app.add_typer(monitoring.app, name="monitoring", rich_help_panel=_WATCH)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"penstock {version('penstock')}")
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Register a model, serve it, watch it, and roll the next one out.

    --json, --no-color, --url and --token may stand before the command as well.
    """


@functools.cache
def _tree() -> Any:
    """Build the tree of commands, once: it takes 100 ms."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code.

    A failure is one sentence on stderr with its stable reason in brackets; PENSTOCK_DEBUG=1 shows the traceback too.
    """
    try:
        _tree()(args=arguments, prog_name="penstock")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.OK if end.code is None else ExitCode.FAILED
    except KeyboardInterrupt:  # before a command was chosen; while one runs typer makes an exit of it
        return ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get("PENSTOCK_DEBUG"):
            raise
        failure = failure_of(error)
        complain(failure.sentence())
        return failure.exit_code
    return ExitCode.OK
