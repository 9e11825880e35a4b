"""A suite file to apply, its files, and a registry to apply it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.cli.__main__ import run
from tests.sdk import ScriptedServer, scripted_server
from tests.shelf import Shelf

SUITE = """
suite: testing
models:
  - name: iris
    description: which iris
    tags: [flowers]
    labels: {team: growth}
    training_config:
      parameters: {depth: 3}
      success_criteria: [{metric: accuracy, at_least: 0.9}]
    serving_settings: {max_in_flight: 8}
    aliases: {champion: 1.0.0}
    versions:
      - version: 1.0.0
        source: {path: one.onnx}
        stage: production
        note: the first
        labels: {data: a}
      - version: 2.0.0
        source: {path: folder}
        framework: onnx
  - name: chat
    versions:
      - version: "1"
        source: {ollama: "llama3.2:1b", mode: chat}
"""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def shelf(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shelf:
    monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", server.address)
    monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("one.onnx").write_bytes(b"one")
    Path("folder/deep").mkdir(parents=True)
    Path("folder/model.onnx").write_bytes(b"two")
    Path("folder/deep/weights.bin").write_bytes(b"weights")
    return Shelf(server)


Apply = Callable[..., str]


@pytest.fixture
def apply(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> Apply:
    """Write a suite file and apply it; gives what is said on stdout, or on stderr where it must fail."""

    def apply(suite: str, *arguments: str, exit_code: int = 0) -> str:
        Path("suite.yaml").write_text(suite)
        shelf.changes.clear()
        capsys.readouterr()
        assert run(["apply", "-f", "suite.yaml", "--approver", "ada", *arguments]) == exit_code
        printed = capsys.readouterr()
        return printed.err if exit_code else printed.out

    return apply
