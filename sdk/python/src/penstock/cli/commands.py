"""The command tree as Typer builds it, with what Typer says of itself and no reader needs taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

HELP_OPTIONS = ["-h", "--help"]
_PREFIX = "Value error, "  # pydantic's, which newer Typers ask
_UsageError: Any = typer.BadParameter.__base__  # click's, or that of Typer's own click, by Typer's version
_EVERYWHERE = {"--json": 0, "--no-color": 0, "--url": 1, "--token": 1}
"""What may stand before the command as well, and how many values it takes."""


class CommandTree(TyperGroup):
    """The root of all commands.

    A flag bears no `<bool>` in help, a refused choice is the sentence alone, and the options that every command takes
    may stand before it.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for command in self.commands.values():
            _quiet_flags(command)

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]  # as of `invoke`
        """Give its own parameters; those for completion come after it was made."""
        return _quieted(super().get_params(ctx))

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # as of `invoke`
        """Read the command line."""
        return super().parse_args(ctx, _command_first(args))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # Typer's own Context is the base's
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            error.message = error.message.removeprefix(_PREFIX) + _hint(error)
            raise


def _command_first(args: Sequence[str]) -> list[str]:
    """Put what every command takes behind the command, where it stands before it."""
    end = 0
    while end < len(args) and (name := args[end].partition("=")[0]) in _EVERYWHERE:
        end += 1 + (_EVERYWHERE[name] if "=" not in args[end] else 0)
    moved, rest = list(args[:end]), list(args[end:])
    place = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:place], *moved, *rest[place:]]


def _hint(error: Any) -> str:
    """Say which option was meant by an argument too many: models are named with their version elsewhere."""
    command = error.ctx.command if error.ctx else None
    options = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
    extra = error.message.startswith("Got unexpected extra argument")
    return "; a version goes with --version" if extra and "--version" in options else ""


def _quiet_flags(command: Any) -> None:
    help_option = command.get_help_option(typer.Context(command, help_option_names=HELP_OPTIONS))
    _quieted([*command.params, help_option])
    for each in getattr(command, "commands", {}).values():
        _quiet_flags(each)


def _quieted(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
