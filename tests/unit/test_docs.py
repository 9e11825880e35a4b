"""What the documents and the error sentences name must exist: files, targets of make, commands, RPCs."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.text import Text

from penstock.api.inference.v1 import inference_pb2
from penstock.api.monitoring.v1 import monitoring_pb2
from penstock.api.registry.v1 import registry_pb2
from penstock.cli.application import app
from penstock.cli.monitoring import find_setting
from services.inference.oip import open_inference_pb2

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
SOURCES = sorted(
    [*(ROOT / "services").rglob("*.py"), *(ROOT / "sdk").rglob("*.py"), *(ROOT / "protos").rglob("*.proto")]
)
LINK = re.compile(r"\]\(([^)#:]+)\)")
QUOTED = re.compile(r"`(?:\.venv/bin/)?penstock ([a-z][^`…]*)`", re.DOTALL)
LISTED = re.compile(r"^ *(?:\$ )?penstock ([a-z].*?)(?:\s+#.*)?$", re.MULTILINE)
CONTINUED = re.compile(r" *\\\n *")


def commands() -> Iterator[tuple[str, str]]:
    """Give each command line of `penstock` that is named anywhere, with the file that names it."""
    for path in (*DOCUMENTS, *SOURCES):
        text = path.read_text()
        lines = QUOTED.findall(text) + (LISTED.findall(CONTINUED.sub(" ", text)) if path.suffix == ".md" else [])
        for line in lines:
            if "|" not in line:
                yield path.relative_to(ROOT).as_posix(), " ".join(line.split())


@functools.cache
def tree() -> Any:
    """Build the tree of commands, once: it takes 100 ms."""
    return typer.main.get_command(app)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    assert [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()] == []


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for path in DOCUMENTS for name in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE)
    }
    assert named <= targets


@pytest.mark.parametrize(("path", "line"), sorted(set(commands())))
def test_a_command_that_is_named_exists_with_its_options(path: str, line: str) -> None:
    command = tree()
    words = shlex.split(line)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        found = command.commands.get(words.pop(0))
        assert found is not None, f"{path} names `penstock {line}`"
        command = found
    options = {name for parameter in command.params for name in parameter.opts}
    assert [word for word in words if word.startswith("-") and word.partition("=")[0] not in options] == []


def helps(command: Any = None, path: str = "penstock") -> Iterator[tuple[str, str]]:
    """Give every text of the help of every command, as it is written."""
    command = command or tree()
    texts = [command.help, command.epilog, *(getattr(parameter, "help", None) for parameter in command.params)]
    yield from ((path, text) for text in texts if text)
    for name, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, f"{path} {name}")


def test_no_help_loses_what_stands_in_brackets() -> None:
    """They are shown by rich, which takes `[age,income]` for a style, and shows nothing of it."""
    lost = [(path, text) for path, text in helps() if Text.from_markup(text).plain != text.replace("\\[", "[")]
    assert lost == []


def test_no_help_shows_a_condition_as_a_placeholder() -> None:
    """Terminals show `<name>` in bold, and take what stands between `< 1` and a later `>` for a name, too."""
    taken = [(path, found) for path, text in helps() for found in re.findall(r"<[^>]+>", text) if " " in found]
    assert taken == []


def test_the_help_of_settings_names_some_of_each_kind_and_the_page_that_has_all() -> None:
    text = " ".join(text for path, text in helps() if path == "penstock monitoring set")
    named = re.findall(r"\b(\w+)\.(\w+)=", text)
    assert {"drift", "quality", "retraining", "alerts"} <= {part for part, _ in named}
    assert all(find_setting(".".join(name)) for name in named)
    (page,) = re.findall(r"docs/[\w-]+\.md", text)
    assert (ROOT / page).exists()


def test_every_rpc_of_the_grpcurl_page_exists() -> None:
    contracts = (inference_pb2, monitoring_pb2, registry_pb2, open_inference_pb2)
    known = {
        f"{service.full_name}/{method.name}"
        for contract in contracts
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    named = set(re.findall(r"((?:penstock|inference)\.\w[\w.]*/\w+)", (ROOT / "examples/grpcurl.md").read_text()))
    assert len(named) > 5
    assert named <= known
