"""Artifacts whose stored bytes are wrong: remembered, so that not every request fetches them again in vain.

One small file for each, named by the artifact's digest, beside the models: the processes of one machine share it, and a
restart does not forget it. Whoever has repaired the store removes the file, or waits until it is too old to count.
"""

from __future__ import annotations

import time
from pathlib import Path

MAX_SENTENCE_BYTES = 4096


class Quarantine:
    """Which artifacts are not to be fetched; each for `lasts_s` after it was found to be corrupt."""

    def __init__(self, folder: Path, lasts_s: float) -> None:
        self._folder = folder
        self._lasts_s = lasts_s

    def open(self) -> None:
        """Make the folder, and forget what has become too old."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            self._find_sentence(path)

    def find(self, digest: str) -> str | None:
        """Say what was wrong with an artifact; None where nothing is known against it."""
        return self._find_sentence(self._folder / digest)

    def add(self, digest: str, sentence: str) -> None:
        """Remember what is wrong."""
        (self._folder / digest).write_text(sentence)

    def _find_sentence(self, path: Path) -> str | None:
        try:
            if time.time() - path.stat().st_mtime < self._lasts_s:
                return path.read_bytes()[:MAX_SENTENCE_BYTES].decode(errors="replace")
            path.unlink()
        except FileNotFoundError:  # the usual case; or another process was faster
            pass
        return None
