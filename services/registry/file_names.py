"""The paths of a version's files, as they come."""

from __future__ import annotations

from services.common import checks
from services.common.errors import InvalidArgument
from services.common.file_names import DistinctPaths

MAX_FILES = 1_000


class FileNames:
    """The paths taken so far."""

    def __init__(self) -> None:
        self._paths = DistinctPaths()

    def take(self, path: str) -> None:
        """Take a path in.

        Raises:
            InvalidArgument: it was there before, be it in other letters only; it is a folder of another file or the
                reverse (DUPLICATE_PATH); or it is one too many (TOO_MANY_FILES).
        """
        if len(self._paths) == MAX_FILES:
            raise InvalidArgument(f"a version has at most {MAX_FILES:,} files", reason="TOO_MANY_FILES")
        if other := self._paths.take(path):
            twice = f"and {checks.shown(other)} can't both be: some file systems mix them up"
            how = "came twice" if path == other else twice
            raise InvalidArgument.field(
                "path", f"{checks.shown(path)} {how}; rename or leave out one", reason="DUPLICATE_PATH"
            )
