"""YAML read strictly: every complaint has its line and its field, and what nobody asked for is refused.

Where a text is wanted a scalar is taken as it is written: `version: 1.10` is 1.10, and `country: no` is no. Where any
value may stand (`free`), what is written without quotes is true or false, null, or a number as JSON writes them, and a
text otherwise: none of YAML 1.1's other spellings (no, 0123, 1_000, 1:30) is anything but what is written.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.formats import say_number

MAX_FILE_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_SHOWN_PROBLEMS = 20
# The one in C is twenty times as fast; not every platform has it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TRUTHS = {"true": True, "false": False}
_NULLS = {"", "~", "null"}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NO_NUMBERS = {f"{sign}{word}" for sign in ("", "+", "-") for word in (".inf", ".nan")}
Choice = TypeVar("Choice", bound=enum.StrEnum)
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file."""

    line: int
    field: str
    sentence: str


@dataclass(slots=True)
class Problems:
    """All that is wrong with a file, so that they are mended in one go."""

    file: Path
    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, field: str, sentence: str) -> None:
        """Note one; lines count from 1."""
        self.found.append(Problem(line, field, sentence))

    def raise_any(self) -> None:
        """Raise CommandError (INVALID_SUITE) if there are any, each on a line of its own."""
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda each: each.line)
        lines = [f"{self.file}:{each.line}: {_colon(each.field)}{each.sentence}" for each in ordered]
        more = [f"… and {len(lines) - MAX_SHOWN_PROBLEMS} more"] if len(lines) > MAX_SHOWN_PROBLEMS else []
        raise CommandError(
            "\n".join((f"{self.file} can't be applied, and nothing was changed", *lines[:MAX_SHOWN_PROBLEMS], *more)),
            reason="INVALID_SUITE",
            exit_code=ExitCode.USAGE,
        )


class Fields:
    """A mapping of the file, read field by field. Each reader gives None where the field is missing or wrong."""

    def __init__(self, node: yaml.Node, path: str, problems: Problems) -> None:
        self.line = _line(node)
        self.path = path
        self.problems = problems
        self._nodes: dict[str, yaml.Node] = {}
        self._asked: list[str] = []
        if not isinstance(node, yaml.MappingNode):
            self.complain("", f"takes fields, `name: value` each, and not {_kind(node)}")
            return
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if not name:
                problems.add(_line(key), path, "a field's name is a plain text")
            elif name in self._nodes:
                problems.add(_line(key), self._path(name), "stands twice; keep one")
            else:
                self._nodes[name] = value

    def has(self, name: str) -> bool:
        """Say whether the field is there."""
        self._asked.append(name)
        return name in self._nodes

    def line_of(self, name: str) -> int:
        """Say where a field stands; where it does not, where its mapping begins."""
        return _line(self._nodes[name]) if name in self._nodes else self.line

    def names(self) -> Iterator[str]:
        """Give the names of all fields, where any is allowed."""
        for name in self._nodes:
            self._asked.append(name)
            yield name

    def complain(self, name: str, sentence: str) -> None:
        """Note what is wrong with a field, or with the mapping itself."""
        self.problems.add(self.line_of(name), self._path(name), sentence)

    def text(self, name: str, *, required: bool = False, limit: int = 4_096) -> str | None:
        """Read a text of at most so many characters."""

        def read(text: str) -> str:
            if len(text) > limit:
                raise ValueError(f"has {len(text):,} characters; {limit:,} are allowed")
            return text

        return self._scalar(name, read, required=required)

    def choice(self, name: str, kind: type[Choice], *, required: bool = False) -> Choice | None:
        """Read one of an enum's words, in any case."""

        def read(text: str) -> Choice:
            try:
                return kind(text.lower())
            except ValueError:
                words = [str(each) for each in kind]
                raise ValueError(f"{text!r} is not one of {', '.join(words)}{_meant(text.lower(), words)}") from None

        return self._scalar(name, read, required=required)

    def truth(self, name: str) -> bool | None:
        """Read true or false."""

        def read(text: str) -> bool:
            if text.lower() not in _TRUTHS:
                raise ValueError(f"takes true or false, not {text!r}")
            return _TRUTHS[text.lower()]

        return self._scalar(name, read)

    def number(self, name: str, kind: type[Read], *, least: float, most: float, required: bool = False) -> Read | None:
        """Read an int or a float within bounds."""

        def read(text: str) -> Read:
            make: Callable[[str], Any] = kind
            whole = kind is int
            if not _NUMBER.fullmatch(text) or (whole and not text.lstrip("-").isdigit()):
                raise ValueError(f"takes a {'whole ' if whole else ''}number, not {text!r}")
            value: Any = make(text) if math.isfinite(float(text)) else math.inf
            if not least <= value <= most:
                raise ValueError(f"is {text}; {say_number(least)} to {say_number(most)} is allowed")
            return cast("Read", value)

        return self._scalar(name, read, required=required)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Read a list of texts."""
        if not self.has(name):
            return None
        node = self._nodes[name]
        if isinstance(node, yaml.SequenceNode) and all(isinstance(each, yaml.ScalarNode) for each in node.value):
            return tuple(each.value for each in node.value)
        self.complain(name, f"takes a list of texts, such as [a, b], and not {_kind(node)}")
        return None

    def pairs(self, name: str) -> dict[str, str] | None:
        """Read texts by name."""
        fields = self.fields(name)
        if fields is None:
            return None
        return {each: fields.text(each) or "" for each in fields.names()}

    def fields(self, name: str, *, required: bool = False) -> Fields | None:
        """Read a mapping within this one."""
        if self._missing(name, required=required):
            return None
        return Fields(self._nodes[name], self._path(name), self.problems)

    def items(self, name: str, *, required: bool = False) -> list[Fields]:
        """Read a list of mappings; none where the field is missing."""
        if self._missing(name, required=required):
            return []
        node = self._nodes[name]
        if not isinstance(node, yaml.SequenceNode):
            self.complain(name, f"takes a list, each item after a `-`, and not {_kind(node)}")
            return []
        path = self._path(name)
        return [Fields(each, f"{path}[{number}]", self.problems) for number, each in enumerate(node.value)]

    def free(self, name: str) -> dict[str, Any] | None:
        """Read a mapping of whatever it holds: texts, finite numbers, true and false, null, lists and mappings."""
        fields = self.fields(name)
        return None if fields is None else fields._values()

    def value(self, name: str) -> Any:
        """Read whatever stands there, as `free` reads it; None where nothing does."""
        return self._value(self._nodes[name], self._path(name)) if self.has(name) else None

    def done(self) -> None:
        """Refuse the fields that nobody asked for."""
        for name in self._nodes:
            if name not in self._asked:
                guess = _meant(name, self._asked) or f"; there are {', '.join(dict.fromkeys(self._asked))}"
                self.complain(name, f"is no field here{guess}")

    def _values(self) -> dict[str, Any]:
        return {each: self._value(self._nodes[each], self._path(each)) for each in self.names()}

    def _value(self, node: yaml.Node, path: str) -> Any:
        if isinstance(node, yaml.MappingNode):
            return Fields(node, path, self.problems)._values()
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, f"{path}[{number}]") for number, each in enumerate(node.value)]
        text = str(node.value)
        if isinstance(node, yaml.ScalarNode) and node.style:  # quoted, or a block of text
            return text
        try:
            return _plain(text)
        except ValueError as error:
            self.problems.add(_line(node), path, str(error))
            return None

    def _missing(self, name: str, *, required: bool) -> bool:
        if self.has(name):
            return False
        if required:
            self.complain("", f"needs {name!r}")
        return True

    def _scalar(self, name: str, read: Callable[[str], Read], *, required: bool = False) -> Read | None:
        if self._missing(name, required=required):
            return None
        node = self._nodes[name]
        if not isinstance(node, yaml.ScalarNode):
            self.complain(name, f"takes a single value, and not {_kind(node)}")
            return None
        if node.tag == "tag:yaml.org,2002:null":
            self.complain(name, "has no value; give one, or leave the field out")
            return None
        try:
            return read(node.value)
        except ValueError as error:
            self.complain(name, str(error))
            return None

    def _path(self, name: str) -> str:
        return ".".join(filter(None, (self.path, name)))


def read_fields(file: Path, problems: Problems) -> Fields:
    """Read a file's one document.

    Raises:
        CommandError: it is no YAML, too large, or uses what could blow it up (INVALID_SUITE).
        OSError: it can't be read.
    """
    with file.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        problems.add(1, "", f"is over {MAX_FILE_BYTES:,} bytes; split it into several suites")
    else:
        try:
            text = content.decode()
            _check_events(text, problems)
            problems.raise_any()
            node = yaml.compose(text, Loader=_LOADER)
        except UnicodeDecodeError:
            problems.add(1, "", "is no text in UTF-8")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problems.add(mark.line + 1 if mark else 1, "", f"is no YAML: {error.problem or error.context}")
        except yaml.YAMLError as error:  # characters that YAML does not allow, without a mark
            problems.add(1, "", f"is no YAML: {' '.join(str(error).split())}")
        else:
            if node is None:
                problems.add(1, "", "is empty; it begins with `suite: NAME`")
            else:
                problems.raise_any()
                return Fields(node, "", problems)
    problems.raise_any()
    raise AssertionError("a problem was noted")


def _check_events(text: str, problems: Problems) -> None:
    """Refuse what makes a small file large, a parser dig deep, or a value another kind, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = _line(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problems.add(line, "", "anchors and aliases (& and *) are not taken; write the value out")
            return
        if getattr(event, "tag", None):
            problems.add(line, "", "tags (!) are not taken; leave it out, and quote what is a text")
            return
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            problems.add(line, "", f"is nested more than {MAX_DEPTH} deep")
            return


def _plain(text: str) -> Any:
    """Say what stands there without quotes; raises ValueError for a number that is not finite."""
    if text.lower() in _NULLS:
        return None
    if text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    number = _NUMBER.fullmatch(text)
    if text.lower() in _NO_NUMBERS or (number and not math.isfinite(float(text))):
        raise ValueError(f"{text if len(text) < 32 else text[:32] + '…'} is no finite number; quote what is a text")
    if not number:
        return text
    return int(text) if number[2] is None and number[3] is None else float(text)


def _line(marked: yaml.Node | yaml.Event) -> int:
    return int(marked.start_mark.line) + 1 if marked.start_mark else 1


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "fields"
    return "a list" if isinstance(node, yaml.SequenceNode) else f"the text {node.value!r}" if node.value else "nothing"


def _meant(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _colon(field: str) -> str:
    return f"{field}: " if field else ""
