"""How a feature view is named where models are: `view:NAME`. No model's name has a colon."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "view:"


def view_of(subject: str) -> str:
    """Give the name of the view that is meant; empty where it is a model."""
    return subject.removeprefix(PREFIX) if subject.startswith(PREFIX) else ""
