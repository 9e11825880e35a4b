"""References to models that an Ollama server keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OllamaMode(StrEnum):
    """Which of Ollama's calls answers."""

    CHAT = "CHAT"
    GENERATE = "GENERATE"
    EMBED = "EMBED"


@dataclass(frozen=True, slots=True)
class OllamaReference:
    """A model as `ollama pull` takes it, and how it is called."""

    model: str
    mode: OllamaMode
