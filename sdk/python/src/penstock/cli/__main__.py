"""The `penstock` command's beginning, which imports nothing itself, so that Ctrl-C ends it quietly from then on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_INTERRUPTED = 130


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code; loading all commands takes a moment, in which Ctrl-C is no error."""
    try:
        from penstock.cli import application
    except KeyboardInterrupt:
        return _INTERRUPTED
    return application.run(arguments)


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run())


if __name__ == "__main__":
    main()
