"""How the demo tells what it does, and stops where something does not hold."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

console = Console()
Result = TypeVar("Result")


def step(title: str, work: Callable[[], Result]) -> Result:
    """Do a part, and say how long it took."""
    began = time.perf_counter()
    result = work()
    console.print(f"[cyan]▸[/] {title} [dim]({time.perf_counter() - began:.2f} s)[/]")
    return result


def say(text: str) -> None:
    """Print a detail."""
    console.print(f"  [dim]{text}[/]")


def check(what: str, found: int, expected: int) -> None:
    """Print a comparison, and stop the demo where it does not hold."""
    if found != expected:
        sys.exit(f"{what}: {found} of {expected}")
    console.print(f"  [green]✓[/] {what}: {found} of {expected}")


def wait_until(met: Callable[[], bool], otherwise: str) -> None:
    """Look until it is so, for 30 seconds at most."""
    deadline = time.monotonic() + 30
    while not met():
        if time.monotonic() > deadline:
            sys.exit(otherwise)
        time.sleep(0.05)
