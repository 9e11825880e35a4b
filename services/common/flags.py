"""Settings as flags: `python -m services.registry --port 0 --insecure`. Flags go before the environment and `.env`.

Secrets have no flags: whoever lists the processes of a machine reads them. (pydantic-settings can parse a command
line too; it would give every secret a flag.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from services.common.settings import Settings

_COLLECTIONS = (tuple, list, set, frozenset, dict)
"""Settings of these kinds are JSON in a flag, as they are in a variable, unless they read text themselves."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command line says.

    Attributes:
        command: what to do in place of serving, if that was said.
        settings: by the names of their fields, as they came: the settings check them.
    """

    command: str | None
    settings: dict[str, Any]


def parse(
    name: str, arguments: Sequence[str], settings_type: type[Settings], *, commands: Sequence[str] | None
) -> Said:
    """Read a service's command line. `commands`: those it may name; None: any, for whoever only asks whether it does.

    Raises:
        SystemExit: it is wrong, and standard error says how (2); or it asks for the help, which is on standard output
            now (0).
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{name}",
        usage="%(prog)s [--SETTING VALUE ...]" + "".join(f" [{command}]" for command in commands or ()),
        description="Each setting can also be a variable, PENSTOCK_ and its name in capitals, or stand in a .env file.",
        allow_abbrev=False,
    )
    if commands is None:
        parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    elif commands:
        parser.add_argument("command", nargs="?", choices=commands, help="do this alone, and end")
    for field, info in settings_type.model_fields.items():
        _add(parser, field, info)
    said = vars(parser.parse_args(list(arguments)))
    return Said(said.pop("command", None), said)


class _Refuse(argparse.Action):
    """Stands where a secret's flag would, and says where the secret goes."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(
            f"--{self.dest.replace('_', '-')} would show a secret in the process list: set PENSTOCK_{self.dest.upper()}"
        )


def _add(parser: argparse.ArgumentParser, field: str, info: FieldInfo) -> None:
    flag = f"--{field.replace('_', '-')}"
    meaning = " ".join((info.description or "").split()).replace("%", "%%")
    if _holds(info.annotation, SecretStr):
        parser.add_argument(flag, nargs="?", action=_Refuse, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return
    if info.annotation is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=meaning)
        return
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    # Empty ones, and those that are made anew each time, say nothing worth a reader's time.
    said = None if info.is_required() or info.default_factory is not None else info.default
    shown = "" if said is None or said in ("", ()) or said == frozenset() else f" Default: {said}."
    parser.add_argument(
        flag,
        default=argparse.SUPPRESS,
        type=json.loads if get_origin(info.annotation) in _COLLECTIONS and NoDecode not in info.metadata else str,
        metavar="|".join(choices) or field.rpartition("_")[2].upper(),
        help=meaning + shown.replace("%", "%%"),
    )


def _holds(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or any(_holds(part, wanted) for part in get_args(annotation))
