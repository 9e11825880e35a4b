"""Which share of the requests is traced, which Triton's clients read and change as a level and a rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.workers.commands import Arguments, Broadcast, Commands, Decision, Result, results

SET_SHARE: Final = "traces.set_share"
TIMEOUT_S: Final = 10.0
MODE: Final = "opentelemetry"
MAX_RATE: Final = 1_000_000_000
Settings = Mapping[str, Sequence[str]]


class Traces(Protocol):
    """Traces a share of the requests, 0 to 1, which may change while the service runs."""

    share: float


def add_commands(commands: Commands, traces: Traces) -> None:
    """Let this process be told of another share."""

    def set_share(arguments: Arguments) -> Result:
        traces.share = arguments["share"]
        return {}

    commands.add(SET_SHARE, set_share, remember=lambda _: Decision(("traces.share",)))


class TraceSettings:
    """The traces of every worker; `traces` are this one's, None where no endpoint takes any."""

    def __init__(self, traces: Traces | None, broadcast: Broadcast) -> None:
        self._traces = traces
        self._broadcast = broadcast
        self._first_share = traces.share if traces else 0.0

    @property
    def enabled(self) -> bool:
        """Whether anything takes the traces."""
        return self._traces is not None

    def read(self) -> dict[str, list[str]]:
        """Give the settings that do something: one in `trace_rate` requests is traced while the level is not OFF."""
        share = self._traces.share if self._traces else 0.0
        rate = round(1 / share) if share else round(1 / (self._first_share or 1))
        return {"trace_level": ["TIMESTAMPS" if share else "OFF"], "trace_rate": [str(rate)], "trace_mode": [MODE]}

    def change(self, settings: Settings, model: str) -> None:
        """Change the share on every worker. A setting without a value is what it was at the start.

        Raises:
            FailedPrecondition: nothing takes the traces (TRACING_OFF).
            InvalidArgument: it is a setting, or a value, that does nothing here (UNSUPPORTED_SETTING).
        """
        if self._traces is None:
            raise FailedPrecondition(
                "no traces are sent from here; configure their endpoint first", reason="TRACING_OFF"
            )
        if model:
            raise _unsupported("model_name", model, "all models are traced alike; leave it out")
        share = share_of(settings, self._traces.share, self._first_share)
        results(self._broadcast.send(SET_SHARE, {"share": share}, TIMEOUT_S))


def share_of(settings: Settings, share: float, first_share: float) -> float:
    """Find the share that follows from `share` by changed settings; `first_share` was the one at the start."""
    if "trace_rate" in settings:
        share = _share_of_rate(settings["trace_rate"]) if settings["trace_rate"] else first_share
    for name, values in settings.items():
        if name == "trace_level":
            levels = set(values)
            if not levels <= {"OFF", "TIMESTAMPS"} or len(levels) > 1:
                raise _unsupported(name, str(list(values)), "send OFF or TIMESTAMPS")
            share = 0.0 if levels == {"OFF"} else share or first_share or 1.0
        elif name == "trace_mode" and list(values) not in ([], [MODE]):
            raise _unsupported(name, str(list(values)), f"only {MODE} is served")
        elif name not in ("trace_rate", "trace_mode"):
            raise _unsupported(name, str(list(values)), "trace_level and trace_rate do")
    return share


def _share_of_rate(values: Sequence[str]) -> float:
    text = values[0]
    rate = int(text) if text.isascii() and text.isdigit() else 0
    if len(values) != 1 or not 1 <= rate <= MAX_RATE:
        raise _unsupported("trace_rate", str(list(values)), f"send one whole number, 1 to {MAX_RATE}")
    return 1 / rate


def _unsupported(name: str, value: str, sentence: str) -> InvalidArgument:
    return InvalidArgument.field(
        f"settings[{name}]", f"{value!r} does nothing here; {sentence}", reason="UNSUPPORTED_SETTING"
    )
