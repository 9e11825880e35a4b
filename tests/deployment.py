"""What the files of a deployment say, read for the tests: the compose file, the Dockerfile's targets, the locks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
WITH_TENSORFLOW = ("inference-tensorflow", "jobs-tensorflow", "trainer-tensorflow")
SERVICES = ("registry", "validator", "inference", "jobs", "monitoring", "fetcher", "trainer")
TARGETS = (*SERVICES, *WITH_TENSORFLOW, "registry-bigquery", "cli")
CODE = {"validator": "registry", "jobs": "inference"} | dict.fromkeys(WITH_TENSORFLOW, "inference")
CODE |= {"trainer-tensorflow": "trainer", "registry-bigquery": "registry"}
"""Whose code a target runs, where it is not its own."""
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@cache
def compose(name: str = "docker-compose.yml") -> Any:
    """Read a compose file, each variable at its default."""
    return yaml.safe_load(_VARIABLE.sub(lambda match: match[2], (ROOT / name).read_text()))


def variables() -> dict[str, str]:
    """Every variable of the compose files, with its default."""
    files = [ROOT / "docker-compose.yml", DEPLOY / "compose.tls.yml"]
    return {name: default for path in files for name, default in _VARIABLE.findall(path.read_text())}


@cache
def stages() -> dict[str, list[tuple[str, str]]]:
    """Read the Dockerfile: the instructions of each stage, FROM first."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, list[tuple[str, str]]] = {}
    steps: list[tuple[str, str]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            steps = found[rest.split()[2]] = []
        if word:
            steps.append((word, " ".join(rest.split())))
    return found


def ancestry(stage: str) -> list[tuple[str, str]]:
    """Every instruction that an image is made by, those of the stages that it stands on first."""
    steps = stages()[stage]
    parent = steps[0][1].split()[0]
    return [*(ancestry(parent) if parent in stages() else []), *steps[1:]]


def locked(name: str) -> dict[str, str]:
    """The packages of a lock file, normalised, with their versions."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {
        match[1].lower().replace("_", "-"): match[2]
        for match in re.finditer(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }
