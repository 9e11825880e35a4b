"""The options that every command takes, and the values that several share."""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.formats import parse_pairs, parse_time
from penstock.durations import parse_duration

_PANEL = "Everywhere"


class Stage(enum.StrEnum):
    """What a version is for."""

    DEVELOPMENT = "development"
    CANDIDATE = "candidate"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


class State(enum.StrEnum):
    """How far a version has come."""

    VALIDATING = "validating"
    READY = "ready"
    FAILED = "failed"


class Framework(enum.StrEnum):
    """Which runtime opens a version's files."""

    ONNX = "onnx"
    TENSORFLOW = "tensorflow"
    TRANSFORMERS = "transformers"
    OLLAMA = "ollama"
    TENSORFLOWJS = "tensorflowjs"


class OllamaMode(enum.StrEnum):
    """Which of Ollama's calls answers."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"


class Severity(enum.StrEnum):
    """How bad an alert is."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class AlertType(enum.StrEnum):
    """What an alert is of."""

    LATENCY = "latency"
    ERROR_RATE = "error_rate"
    DRIFT = "drift"
    DATA_QUALITY = "data_quality"


def duration(text: str | timedelta) -> timedelta:
    """Read a duration for Typer, which sends a default through here too."""
    try:
        return text if isinstance(text, timedelta) else parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def moment(text: str | datetime) -> datetime:
    """Read a point in time for Typer."""
    try:
        return text if isinstance(text, datetime) else parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """Read an option's `name=value`s; the error names the option."""
    try:
        return parse_pairs(texts or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def one_model(named: str, filtered: str) -> str:
    """Take a model that is named by an argument or by --model; raises BadParameter where they differ."""
    if named and filtered and named != filtered:
        raise typer.BadParameter(f"{named!r} and --model {filtered!r} are two models; name one")
    return named or filtered


def refuse_to_replace(path: Path, *, force: bool) -> None:
    """Leave a file alone that is there already, unless told otherwise."""
    if path.exists() and not force:
        sentence = f"{path} is there already; --force replaces it"
        raise CommandError(sentence, reason="FILE_EXISTS", exit_code=ExitCode.ALREADY_EXISTS)


def page_size(limit: int) -> int:
    """Choose a page that suits a limit, within what the services take."""
    return min(limit, 1_000)


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="HOST:PORT",
        help="The service's address; grpcs:// before it means TLS. Default: PENSTOCK_<SERVICE>_ADDRESS, "
        "then the suite that runs here, then the usual port.",
        rich_help_panel=_PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option("--token", metavar="KEY", help="The API key. Default: PENSTOCK_TOKEN.", rich_help_panel=_PANEL),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of a table.", rich_help_panel=_PANEL)
]
NoColor = Annotated[
    bool, typer.Option("--no-color", help="Print without colours, as NO_COLOR=1 does.", rich_help_panel=_PANEL)
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="The data folder. Default: PENSTOCK_DATA_DIR, then ~/.penstock."),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)]
ExactVersion = Annotated[str, typer.Argument(metavar="VERSION", help="The exact version.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=100_000, help="At most so many.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Query = Annotated[str, typer.Option("--query", "-q", metavar="WORDS", help="Only where each word begins a word.")]
LabelFilter = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="Only with this label; again for more.")
]
Deleted = Annotated[bool, typer.Option("--deleted", help="Deleted ones too.")]
Version = Annotated[
    str | None,
    typer.Option("--version", "-v", metavar="V", help="An exact version, a stage, or `latest`."),
]
Since = Annotated[
    timedelta,
    typer.Option(
        "--since", metavar="DURATION", parser=duration, help="How far back: 45s, 15m, 1h30m, 7d.", show_default="1h"
    ),
]
ModelFilter = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Only this model.")]
ModelOrAll = Annotated[
    str, typer.Argument(metavar="MODEL", help="Only this model's. Default: all.", show_default=False)
]
VersionFilter = Annotated[str, typer.Option("--version", "-v", metavar="V", help="Only this version.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; kept with who and when.")]
Window = Annotated[
    timedelta | None,
    typer.Option(
        "--window",
        "-w",
        metavar="DURATION",
        parser=duration,
        help="How much live data, up to now: 1h, 24h, 7d. Default: as configured.",
        show_default=False,
    ),
]
From = Annotated[
    datetime | None,
    typer.Option(
        "--from",
        metavar="TIME",
        parser=moment,
        help="From then on: so long ago, such as 24h, or 2026-01-31T12:00.",
        show_default=False,
    ),
]
Scheduled = Annotated[
    bool,
    typer.Option("--scheduled", help="Make the check that is next by schedule now: alert rules judge those alone."),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", metavar="TIME", parser=moment, help="Before then, written likewise.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
Check = Annotated[str, typer.Argument(metavar="CHECK", help="The check's id, or how it begins.", show_default=False)]
Fail = Annotated[
    bool, typer.Option("--fail", help="End with exit code 1 where the check finds something, for scripts.")
]
