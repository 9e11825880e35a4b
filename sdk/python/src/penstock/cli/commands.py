"""The command tree as Typer builds it, with what Typer says of itself and no reader needs taken away."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

HELP_OPTIONS = ["-h", "--help"]
_PREFIX = "Value error, "  # pydantic's, which newer Typers ask


class CommandTree(TyperGroup):
    """The root of all commands.

    A flag bears no `<bool>` in help, and a refused choice is the sentence alone.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for command in self.commands.values():
            _quiet_flags(command)

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]  # as of `invoke`
        """Give its own parameters; those for completion come after it was made."""
        return _quieted(super().get_params(ctx))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # Typer's own Context is the base's
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix(_PREFIX)
            raise


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
