"""The databases that queries may ask, by name: only the operator of the service knows where they are."""

from __future__ import annotations

import json
from pathlib import Path

from services.common.errors import FailedPrecondition, InvalidArgument

MAX_FILE_BYTES = 1024 * 1024


class Connections:
    """A file of names and URLs, `{"shop": "postgresql://reader:…@host/db"}`; it is read each time."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def url_of(self, name: str) -> str:
        """Give the URL of a database.

        Raises:
            InvalidArgument: no database is called so (UNKNOWN_CONNECTION).
            FailedPrecondition: the file cannot be read as such (CONNECTIONS_UNREADABLE).
        """
        known = self._read()
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            sentence = f"PENSTOCK_FEATURE_CONNECTIONS_FILE names no {name[:80]!r}; it names {names}"
            raise InvalidArgument.field("query.connection", sentence, reason="UNKNOWN_CONNECTION")
        return known[name]

    def _read(self) -> dict[str, str]:
        if self._file is None:
            return {}
        try:
            with self._file.open("rb") as file:
                found = json.loads(file.read(MAX_FILE_BYTES))
        except (OSError, ValueError) as error:
            raise _unreadable(type(error).__name__) from error
        if not isinstance(found, dict) or not all(isinstance(url, str) for url in found.values()):
            raise _unreadable("it is no object of names and URLs")
        return found


def _unreadable(why: str) -> FailedPrecondition:
    # What stands in the file is not said: it holds passwords.
    sentence = f"PENSTOCK_FEATURE_CONNECTIONS_FILE cannot be read ({why}); its operator has to mend it"
    return FailedPrecondition(sentence, reason="CONNECTIONS_UNREADABLE")
