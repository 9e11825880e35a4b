"""The log's level, which Triton's clients read and change as a handful of switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.common import logs
from services.common.errors import InvalidArgument
from services.inference.workers.commands import Arguments, Broadcast, Commands, Decision, Result, results

SET_LEVEL: Final = "log.set_level"
TIMEOUT_S: Final = 10.0
LEVELS: Final = ("debug", "info", "warning", "error")
Value = bool | int | str
# What Triton's clients may send along, and means what is so already.
UNCHANGING: Final[Mapping[str, frozenset[Value]]] = {
    "log_file": frozenset({""}),
    "log_format": frozenset({"", "default"}),
    "log_error": frozenset({True}),
}


def add_commands(commands: Commands) -> None:
    """Let this process be told of another level."""

    def set_level(arguments: Arguments) -> Result:
        logs.set_level(arguments["level"])
        return {}

    commands.add(SET_LEVEL, set_level, remember=lambda _: Decision(("log.level",)))


class LogSettings:
    """The level of every worker's log."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast

    def read(self) -> dict[str, Value]:
        """Give the switches: a level's own is on, and those of all that is worse."""
        place = LEVELS.index(logs.current_level())
        return {
            "log_error": True,
            "log_warning": place <= LEVELS.index("warning"),
            "log_info": place <= LEVELS.index("info"),
            "log_verbose_level": 1 if place == 0 else 0,
        }

    def change(self, switches: Mapping[str, Value]) -> None:
        """Turn switches on or off on every worker.

        Raises InvalidArgument(UNSUPPORTED_SETTING) for one that does nothing here.
        """
        level = level_of(switches, logs.current_level())
        results(self._broadcast.send(SET_LEVEL, {"level": level}, TIMEOUT_S))


def level_of(switches: Mapping[str, Value], level: str) -> str:
    """Find the level that follows: turning one on turns on all that is worse, and off all that is less so."""
    place = LEVELS.index(level)
    for name, value in switches.items():
        if name in ("log_info", "log_warning") and isinstance(value, bool):
            own = LEVELS.index(name.removeprefix("log_"))
            place = min(place, own) if value else max(place, own + 1)
        elif name == "log_verbose_level" and isinstance(value, int) and not isinstance(value, bool):
            place = 0 if value else max(place, 1)
        elif value not in UNCHANGING.get(name, frozenset()):
            raise InvalidArgument.field(
                f"settings[{name}]",
                f"{value!r} does nothing here; log_info, log_warning (true or false) and log_verbose_level (a number) "
                "do, and the log is JSON on standard error",
                reason="UNSUPPORTED_SETTING",
            )
    return LEVELS[place]
