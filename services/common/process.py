"""A service's life as a process: settings, logs, migrations, then serving until told to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar

import structlog
from pydantic import ValidationError

from services.common import flags, logs
from services.common.errors import DomainError
from services.common.settings import ServerSettings

_log = structlog.get_logger(__name__)
AnySettings = TypeVar("AnySettings", bound=ServerSettings)
OK, NOT_STARTED, MISUSED = 0, 1, 2


class Serving(Protocol):
    """What a process runs until it is told to stop: a server, or whoever supervises servers and imports none."""

    def open(self) -> int:
        """Begin, and give the port."""
        ...

    def wait(self) -> None:
        """Block until it is told to stop."""
        ...

    def close(self) -> None:
        """End in order."""
        ...


def run(
    name: str,
    arguments: Sequence[str],
    settings_type: type[AnySettings],
    build: Callable[[AnySettings, ExitStack], Serving],
    *,
    migrate: Callable[[AnySettings], Sequence[str]] | None = None,
    commands: Mapping[str, Callable[[AnySettings], None]] | None = None,
) -> int:
    """Run `python -m services.<name>`, or with the argument `migrate` only bring its schema up to date.

    Args:
        name: the service.
        arguments: what follows on the command line; see `flags`.
        settings_type: read from flags, the environment and `.env`, in this order.
        build: opens what the server stands on, each part's end pushed on the stack, and builds the server.
        migrate: brings its schema up to date, where it has one, and names what it applied.
        commands: what else it can do, by the argument that asks for it: once, on an up-to-date schema, without serving.

    Returns:
        The exit code: 0 when it ended in order, 1 when it could not begin, 2 when it was called wrongly.
    """
    commands = commands or {}
    names = (*(("migrate",) if migrate else ()), *commands)
    try:
        said = flags.parse(name, arguments, settings_type, commands=names)
    except SystemExit as end:  # argparse has said why, or has shown the help
        return MISUSED if end.code else OK
    try:
        settings = settings_type(**said.settings)
    except ValidationError as error:
        sys.stderr.write(f"the settings cannot be used:\n{_sentences(error)}\n")
        return MISUSED
    logs.configure(name, settings.log_level)
    try:
        for applied in migrate(settings) if migrate else ():
            _log.info("migrated", migration=applied)
        if said.command is None:
            _serve(settings, build)
        elif said.command in commands:
            commands[said.command](settings)
    except DomainError as error:
        _log.error("not started", reason=error.reason, message=error.message)
        return NOT_STARTED
    return OK


def _serve(settings: AnySettings, build: Callable[[AnySettings, ExitStack], Serving]) -> None:
    with ExitStack() as stack:
        server = build(settings, stack)
        server.open()
        stack.callback(server.close)
        server.wait()


def _sentences(error: ValidationError) -> str:
    # Without the values: one of them may be a password.
    return "\n".join(
        f"  PENSTOCK_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}"
        for each in error.errors(include_input=False)
    )
