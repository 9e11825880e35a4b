"""What `penstock fetch` and its schedules are told alike."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.alert_channel import secret_of
from penstock.cli.formats import parse_scalar, say_time
from penstock.cli.options import Framework, pairs
from penstock.cli.output import Output
from penstock.durations import parse_duration

if TYPE_CHECKING:
    from penstock.api.registry.v1.registry_pb2 import Metadata


def later(text: str | datetime) -> datetime:
    """Read for Typer when something may begin: in so long (`2h`), or ISO 8601, in this machine's zone without one."""
    if isinstance(text, datetime):
        return text
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now(UTC) + parse_duration(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write in how long, such as 2h, or 2026-01-31T22:00") from None


class FetchStage(enum.StrEnum):
    """Where a fetched version may begin: what goes live is promoted by hand."""

    DEVELOPMENT = "development"
    CANDIDATE = "candidate"
    STAGING = "staging"


def _named(name: str | None) -> str | None:
    if name is not None and not name.strip():
        raise typer.BadParameter("it is empty; without --name the model is called as the source suggests")
    return name


def say_if_past(output: Output, at: datetime | None) -> None:
    """Say of a time that has passed that nothing waits for it."""
    if at is not None and at <= datetime.now(UTC):
        output.note(f"{say_time(at)} {at.astimezone().tzname()} has passed: it begins at once")


SourceName = Annotated[
    str, typer.Argument(metavar="SOURCE", help="`penstock fetch sources` lists them.", show_default=False)
]
Reference = Annotated[
    str, typer.Argument(metavar="REFERENCE", help="What to fetch, in the source's own terms.", show_default=False)
]
Into = Annotated[
    str | None,
    typer.Option(
        "--name",
        "-n",
        metavar="MODEL",
        callback=_named,
        help="Into which model. Default: as the source suggests.",
        show_default=False,
    ),
]
IntoFilter = Annotated[str, typer.Option("--name", "--model", "-m", metavar="MODEL", help="Only into this model.")]
StageOrNone = Annotated[
    FetchStage | None,
    typer.Option("--stage", metavar="STAGE", help="Default: development; staging at most.", show_default=False),
]
Revision = Annotated[
    str, typer.Option("--revision", metavar="REVISION", help="A branch, tag, commit or digest. Default: the newest.")
]
Variant = Annotated[str, typer.Option("--variant", metavar="NAME", help="Such as quantized or fp16.")]
Sha256 = Annotated[str, typer.Option("--sha256", metavar="HEX", help="The digest that the only file must have.")]
FrameworkOrNone = Annotated[
    Framework | None,
    typer.Option("--framework", metavar="F", help="Default: by the files' names.", show_default=False),
]
StageApprover = Annotated[str, typer.Option("--approver", metavar="NAME", help="For a stage that needs one.")]
StageNote = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; for a stage that needs one.")]
Label = Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="For search; again for more.")]
Field = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="K=V", help="A field of the metadata, such as pooling=cls; again for more."),
]
Priority = Annotated[int, typer.Option("--priority", metavar="1-9", min=1, max=9, help="1 goes first.")]
Webhook = Annotated[
    str, typer.Option("--webhook", metavar="URL", help="Post JSON there when it ends; with nothing secret in it.")
]
WebhookFile = Annotated[
    str, typer.Option("--webhook-file", metavar="FILE | -", help="Post JSON to the URL that this file holds.")
]
WebhookEnv = Annotated[
    str, typer.Option("--webhook-env", metavar="VARIABLE", help="Post JSON to the URL that this variable holds.")
]
WebhookSecretFile = Annotated[
    str, typer.Option("--webhook-secret-file", metavar="FILE | -", help="Sign that with what this file holds.")
]
WebhookSecretEnv = Annotated[
    str, typer.Option("--webhook-secret-env", metavar="VARIABLE", help="Sign that with what this variable holds.")
]


def metadata_of(field: list[str] | None) -> Metadata | None:
    """Read the fields that go before what the source says; None: it is left to the source."""
    if not field:
        return None
    from penstock.api.registry.v1.registry_pb2 import Metadata
    from penstock.values import to_struct  # numpy takes 100 ms, which `--help` must not wait for

    return Metadata(fields=to_struct({name: parse_scalar(text) for name, text in pairs(field, "--field").items()}))


def told_of(webhook: str, webhook_file: str, webhook_env: str, secret_file: str, secret_env: str) -> tuple[str, str]:
    """Give the URL that is told of an end and the secret that signs what it is sent; each may be empty."""
    posted_to = secret_of(webhook_file, webhook_env, "--webhook")
    if webhook and posted_to:
        raise typer.BadParameter("give one of --webhook, --webhook-file and --webhook-env")
    secret = secret_of(secret_file, secret_env, "--webhook-secret")
    if secret and not (webhook or posted_to):
        raise typer.BadParameter("a secret signs what a webhook posts: give --webhook, too")
    return webhook or posted_to, secret
