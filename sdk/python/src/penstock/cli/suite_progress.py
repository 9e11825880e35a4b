"""What `penstock up` shows while the parts of the suite come up and go down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from penstock.cli.embedded.supervisor import Event, EventKind
from penstock.cli.formats import say_duration
from penstock.cli.output import Output

_PARTS = ("postgres", "registry", "monitoring", "inference", "jobs")
_DONE = {EventKind.HEALTHY, EventKind.STOPPED, EventKind.KILLED}
_WORDS = {
    EventKind.STARTED: ("starting", ""),
    EventKind.HEALTHY: ("healthy", "green"),
    EventKind.DIED: ("died, starting again", "yellow"),
    EventKind.STOPPING: ("finishing what is in flight", ""),
    EventKind.STOPPED: ("stopped", "green"),
    EventKind.KILLED: ("did not stop in time, killed", "yellow"),
}


class SuiteProgress:
    """A line for each part: a spinner, then a check mark and the seconds. Piped, a line for each event."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live = output.stderr.is_terminal and not output.as_json
        self._watched = False
        self._last: dict[str, EventKind] = {}
        self._since: dict[str, float] = {}
        self._took_s: dict[str, float] = {}
        self._spinner = Spinner("dots")

    def see(self, event: Event) -> None:
        """Take in what happened to a part."""
        now = time.monotonic()
        if event.kind in (EventKind.STARTED, EventKind.STOPPING):
            self._since[event.name] = now
        self._last[event.name] = event.kind
        self._took_s[event.name] = now - self._since.get(event.name, now)
        if not self._watched:  # else the live table draws it
            self._output.note(self._sentence(event))

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Show all parts until they are healthy."""
        with self._shown(_PARTS, before="waits"):
            yield

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Show the parts that run until they have stopped."""
        begun = tuple(name for name in reversed(_PARTS) if name in self._last)
        self._last.clear()
        with self._shown(begun, before="runs"):
            yield

    @contextmanager
    def _shown(self, names: tuple[str, ...], *, before: str) -> Iterator[None]:
        if not self._live or not names:
            yield
            return
        self._watched = True
        live = Live(
            get_renderable=lambda: self._table(names, before), console=self._output.stderr, refresh_per_second=12
        )
        try:
            with live:
                try:
                    yield
                finally:
                    live.transient = not self._last  # where nothing began, no table stays behind
        finally:
            self._watched = False

    def _table(self, names: tuple[str, ...], before: str) -> Table:
        now = time.monotonic()
        table = Table.grid(padding=(0, 1))
        for name in names:
            kind = self._last.get(name)
            if kind is None:
                table.add_row(Text("·", style="dim"), Text(name, style="dim"), Text(before, style="dim"), "")
                continue
            word, style = _WORDS[kind]
            done = kind in _DONE
            mark = Text("✔", style="bold green") if done else self._spinner
            took_s = self._took_s[name] if done else now - self._since.get(name, now)
            table.add_row(mark, name, Text(word, style=style), Text(say_duration(took_s), style="dim"))
        return table

    def _sentence(self, event: Event) -> str:
        word, _ = _WORDS[event.kind]
        took = f" after {say_duration(self._took_s[event.name])}" if event.kind in _DONE else ""
        status = f" (exit status {event.exit_status})" if event.exit_status is not None else ""
        return f"{event.name}: {word}{took}{status}"
