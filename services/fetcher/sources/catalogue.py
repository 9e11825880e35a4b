"""All sources of a service, by name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from services.common.errors import FailedPrecondition, InvalidArgument
from services.fetcher.models import Reference
from services.fetcher.sources.source import Source


class Sources:
    """Finds the source of a reference."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._by_name = {source.name: source for source in sources}

    def all(self) -> list[Source]:
        """List them by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def of(self, reference: Reference) -> Source:
        """Find the source of a reference, which it says can be one.

        Raises:
            InvalidArgument: there is none of this name (UNKNOWN_SOURCE), or the reference can be none of it.
            FailedPrecondition: nothing is fetched from it here (SOURCE_DISABLED), or the reference leads where it
                must not (SECURITY).
        """
        source = self._by_name.get(reference.source)
        if source is None:
            near = get_close_matches(reference.source[:80].lower(), self._by_name, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            sentence = f"got {reference.source[:80]!r}; there is {', '.join(sorted(self._by_name))}{meant}"
            raise InvalidArgument.field("source.source", sentence, reason="UNKNOWN_SOURCE")
        if source.disabled_reason:
            raise FailedPrecondition(source.disabled_reason, reason="SOURCE_DISABLED")
        source.check(reference)
        return source
