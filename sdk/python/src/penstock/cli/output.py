"""Where a command's words go: answers to stdout, for people or as one JSON document; progress and notes to stderr.

On a terminal answers are tables that fit its width: ids are shortened, texts folded, others end in an ellipsis, and
columns that there is no room for are named below the table. Piped they are plain aligned columns, never cut, and
`--json` has all there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.cli.documents import json_value
from penstock.cli.formats import say_bytes, say_duration, say_short_time, say_time
from penstock.cli.ids import short_ids
from penstock.cli.wording import at_the_command_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# No line is broken that a program or `grep` may read.
PIPED_WIDTH = 100_000
MIN_WIDTH = 6
# Narrower, a wrapped cell is a column of single words.
MIN_WRAP_WIDTH = 20

_COMMAND = re.compile(r"`(?P<quoted>penstock [^`]+)`|(?<=: )(?P<last>penstock .+?)(?=; to |$)", re.MULTILINE)
"""A command in a sentence: in backticks, or after a colon to the end, or to what else can be done."""

STAGE_STYLES = {
    "production": "bold green",
    "staging": "yellow",
    "candidate": "cyan",
    "development": "blue",
    "archived": "dim",
}
STATE_STYLES = {"ready": "green", "validating": "yellow", "uploading": "yellow", "failed": "bold red"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and how it behaves where the terminal is narrow."""

    title: str
    justify: Literal["left", "right"] = "left"
    give: Literal["nothing", "cut", "wrap", "id"] = "nothing"
    """What it does for the others: keeps its width, ends in an ellipsis, goes on in the next line, or, of ids that
    commands take by their beginning, shows as much as tells them apart."""
    optional: bool = False
    """Left out where even then not all fit, the last one first, and named below the table. Piped, all are there."""
    least_width: int = MIN_WIDTH
    """What it keeps of its width where it gives: less would say nothing."""
    named: bool = False
    """The title is a name that somebody gave, or an id: piped it stays as it is written, where ours are capitals."""


class _Aside(Console):
    """Where notes go. Nobody need read them: whoever closes that pipe ends no command."""

    def on_broken_pipe(self) -> None:
        """Say no more; rich would end the process."""
        self.quiet = True


class Output:
    """One command's output."""

    def __init__(self, *, as_json: bool, no_color: bool) -> None:
        # None leaves the choice to the environment: NO_COLOR, FORCE_COLOR, TERM.
        color = True if no_color else None
        self.as_json = as_json
        self.stdout = Console(no_color=color, highlight=False, markup=False, emoji=False)
        if not self.stdout.is_terminal:
            self.stdout.width = PIPED_WIDTH
        self.stderr = _Aside(stderr=True, no_color=color, highlight=False, markup=False, emoji=False)

    def answer(self, document: Any, *parts: RenderableType) -> None:
        """Print the answer: the document with `--json`, else the parts."""
        if self.as_json:
            self.stdout.file.write(
                json.dumps(json_value(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            )
            return
        for part in parts:
            self.say(part)

    def item(self, document: Any, *parts: RenderableType) -> None:
        """Print one of answers without end: with `--json` a document a line, else the parts."""
        if self.as_json:
            line = json.dumps(json_value(document), ensure_ascii=False, allow_nan=False)
            self.stdout.file.write(line + "\n")
            self.stdout.file.flush()
            return
        for part in parts:
            self.say(part)

    def say(self, part: RenderableType) -> None:
        """Print a part of an answer that comes in steps; with `--json` nothing."""
        if not self.as_json:
            self.stdout.print(part, soft_wrap=not self.stdout.is_terminal)

    def note(self, text: str | Text) -> None:
        """Say something beside the answer, on stderr: with `--json` nothing."""
        if not self.as_json:
            _print_lines(self.stderr, text)

    def away(self, service: str) -> Callable[[Exception], None]:
        """Give what says that a watch broke, and is taken up again."""
        return lambda _: self.note(f"{service} gives no answer, trying again")

    def warn(self, sentences: Iterable[str]) -> None:
        """Say on stderr what looks like a mistake in what was done all the same; with `--json` it is in the answer."""
        for sentence in sentences:
            words = at_the_command_line(sentence, reason="")
            self.note(Text.assemble(("warning: ", "bold yellow"), printable(words)))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], *, empty: str) -> RenderableType:
        """Build a table, or the sentence that stands for one without rows."""
        if not rows:
            return Text(empty, style="dim")
        if not self.stdout.is_terminal:
            return _plain(columns, rows)
        cells = [[Text(printable(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows]
        if sum(_natural_widths(columns, cells)) + _gaps(columns) > self.stdout.width:
            cells = _with_short_ids(columns, cells)
        shown = _shown(columns, _natural_widths(columns, cells), self.stdout.width)
        hidden = [
            column.title
            for index, column in enumerate(columns)
            if index not in shown and column.title and any(row[index].plain for row in cells)
        ]
        columns, cells = [columns[index] for index in shown], [[row[index] for index in shown] for row in cells]
        widths = _fit(columns, _natural_widths(columns, cells), self.stdout.width - _gaps(columns))
        # A space of the box and one of padding stand between two columns.
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
        for column, width in zip(columns, widths, strict=True):
            wraps = column.give == "wrap" and width >= MIN_WRAP_WIDTH
            overflow: Literal["fold", "ellipsis"] = "fold" if wraps else "ellipsis"
            table.add_column(column.title, justify=column.justify, width=width, no_wrap=not wraps, overflow=overflow)
        for row in cells:
            table.add_row(*row)
        return Group(table, no_room(hidden)) if hidden else table

    def time(self, time: datetime | None) -> str:
        """Write a time: in full where it is piped, in short where a person looks."""
        return say_short_time(time) if self.stdout.is_terminal else say_time(time)

    def age(self, time: datetime | None) -> str:
        """Write how long ago a time was, where a person looks; piped in full."""
        if time is None or not self.stdout.is_terminal:
            return say_time(time)
        return say_duration(max(0.0, (datetime.now(UTC) - time).total_seconds()))

    def facts(self, title: str | Text, facts: Sequence[tuple[str, str | Text]]) -> RenderableType:
        """Build a title with named facts below it, empty ones left out."""
        heading = Text(printable(title), style="bold") if isinstance(title, str) else title
        known = [(name, Text(printable(value)) if isinstance(value, str) else value) for name, value in facts if value]
        if not self.stdout.is_terminal:
            return Group(heading, *_plain_facts(known))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in known:
            grid.add_row(name, value)
        return Group(heading, Padding(grid, (0, 0, 0, 2), expand=False))

    @contextmanager
    def spinner(self, text: str) -> Iterator[None]:
        """Show that something is under way, where a person watches."""
        if self.as_json or not self.stderr.is_terminal:
            yield
            return
        with self.stderr.status(Text(text)):
            yield

    @contextmanager
    def transfer(self, verb: str) -> Iterator[Transfer]:
        """Show a bar with bytes, speed and the time left, where a person watches."""
        from rich import progress as bars  # 30 ms that only transfers need

        progress = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=None),
            bars.DownloadColumn(binary_units=True),
            bars.TextColumn("{task.fields[speed]}", justify="right"),
            bars.TimeRemainingColumn(compact=True),
            console=self.stderr,
            disable=self.as_json or not self.stderr.is_terminal,
            expand=True,
        )
        with progress:
            yield Transfer(progress, progress.add_task(verb, total=None, speed=""))


class Transfer:
    """A bar under way."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def reach(self, done_bytes: int, total_bytes: int | None = None) -> None:
        """Show how far the transfer has come."""
        speed = self._progress.tasks[0].finished_speed or self._progress.tasks[0].speed
        said = f"{say_bytes(speed)}/s" if speed else ""
        self._progress.update(self._task, completed=done_bytes, total=total_bytes, speed=said)


def complain(sentence: str) -> None:
    """Print an error to stderr: whole lines where it is piped, wrapped between words on a terminal."""
    stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)
    _print_lines(stderr, Text("\n".join(map(printable, sentence.split("\n")))))


def _print_lines(console: Console, text: str | Text) -> None:
    """Print whole lines where it is piped, and wrap them on a terminal: there a command that would be broken gets a
    line of its own, which the terminal itself breaks, so that it can be copied.
    """
    text = Text(text) if isinstance(text, str) else text
    if not console.is_terminal:
        console.print(text, soft_wrap=True)
        return
    while broken := _broken_command(console, text):
        before, after = text[: broken.start()], text[broken.end() :]
        before.rstrip()
        if before.plain:
            console.print(before)
        console.print(Text(f"  {broken['quoted'] or broken['last']}"), soft_wrap=True)
        text = Text(after.plain.lstrip(" ;"))
    if text.plain:
        console.print(text)


def _broken_command(console: Console, text: Text) -> re.Match[str] | None:
    """Find the first command that wrapping would break."""
    shown = [line.plain for line in text.wrap(console, console.width)]
    commands = _COMMAND.finditer(text.plain)
    return next((each for each in commands if not any(each[0] in line for line in shown)), None)


def no_room(titles: Iterable[str]) -> Text:
    """Name the columns that a narrow terminal leaves out."""
    return Text(f"no room here for: {', '.join(titles)}; a wider terminal or --json has all", style="dim")


def printable(text: str) -> str:
    """Replace what would move the cursor or break a row: others wrote these words, and they are shown, not obeyed."""
    return "".join(character if character.isprintable() else " " for character in text)


def lines(items: Iterable[str]) -> Text:
    """Set each item on a line of its own."""
    return Text("\n".join(printable(item) for item in items))


def styled(word: str, styles: dict[str, str]) -> Text:
    """Colour a word by a table of styles."""
    return Text(word, style=styles.get(word, ""))


def _natural_widths(columns: Sequence[Column], cells: Sequence[Sequence[Text]]) -> list[int]:
    return [
        max(Text(column.title).cell_len, *(row[index].cell_len for row in cells))
        for index, column in enumerate(columns)
    ]


def _with_short_ids(columns: Sequence[Column], cells: Sequence[Sequence[Text]]) -> list[list[Text]]:
    shortened = [list(row) for row in cells]
    for index, column in enumerate(columns):
        if column.give == "id":
            short = short_ids([row[index].plain for row in cells])
            for row in shortened:
                row[index] = Text(short[row[index].plain], style=row[index].style)
    return shortened


def _gaps(columns: Sequence[Column]) -> int:
    return 2 * (len(columns) - 1)


def _least_width(column: Column, natural: int) -> int:
    if column.give not in ("cut", "wrap"):
        return natural
    return min(natural, max(column.least_width, MIN_WRAP_WIDTH if column.give == "wrap" else 0))


def _shown(columns: Sequence[Column], widths: Sequence[int], available: int) -> list[int]:
    """Choose the columns that there is room for. Pictures, which have no title, go first."""
    shown = list(range(len(columns)))
    for index in sorted(shown, key=lambda index: (columns[index].title != "", -index)):
        least = sum(_least_width(columns[each], widths[each]) for each in shown)
        if least + _gaps([columns[each] for each in shown]) <= available:
            break
        if columns[index].optional:
            shown.remove(index)
    return shown


def _fit(columns: Sequence[Column], widths: Sequence[int], available: int) -> list[int]:
    """Take from the widest column that gives, again and again, until all fit or nobody can give more."""
    least = [_least_width(column, width) for column, width in zip(columns, widths, strict=True)]
    fitted = [max(least[index], min(width, available)) for index, width in enumerate(widths)]
    while sum(fitted) > available:
        givers = [index for index, width in enumerate(fitted) if width > least[index]]
        if not givers:
            break
        fitted[max(givers, key=fitted.__getitem__)] -= 1
    return fitted


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> Text:
    titles = [column.title if column.named else column.title.upper() for column in columns]
    cells = [titles, *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(Text(row[index]).cell_len for row in cells) for index in range(len(columns))]
    lines = []
    for row in cells:
        padded = []
        for column, cell, width in zip(columns, row, widths, strict=True):
            space = " " * (width - Text(cell).cell_len)
            padded.append(space + cell if column.justify == "right" else cell + space)
        lines.append("  ".join(padded).rstrip())
    return Text("\n".join(lines))


def _plain_facts(facts: Sequence[tuple[str, Text]]) -> Iterator[Text]:
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        for number, line in enumerate(value.plain.split("\n")):
            yield Text(f"  {name if number == 0 else '':{width}}  {line}")
