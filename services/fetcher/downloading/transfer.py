"""One file on its way over several connections, or over one where its source knows no ranges."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.fetcher.downloading.assembly import Assembly
from services.fetcher.downloading.ending import Ending
from services.fetcher.downloading.filling import Filling, Told
from services.fetcher.downloading.lines import Lines
from services.fetcher.faults import FileTooLarge, NetworkError, RateLimited, SourceChanged
from services.fetcher.models import RemoteFile
from services.fetcher.sources.source import Flow, Source


@dataclass(frozen=True, slots=True)
class Sizes:
    """In bytes: of a part, and of the largest file."""

    part_bytes: int
    max_file_bytes: int


class Transfer:
    """Brings what lacks of a file into an `Assembly`."""

    def __init__(
        self, lines: Lines, ending: Ending, source: Source, file: RemoteFile, sizes: Sizes, told: Told
    ) -> None:
        self._lines = lines
        self._ending = ending
        self._source = source
        self._file = file
        self._sizes = sizes
        self._told = told
        self._waiting: deque[int] = deque()
        self._up = 0

    def bring(self, assembly: Assembly, missing: Sequence[int], connections: int) -> None:
        """Bring all parts that are missing: several at once where any range can be had, else from the first on."""
        if connections > 1 and len(missing) > 1:
            self._bring_at_once(assembly, missing, connections)
        # All of it, or what was left: by a source that knows no ranges after all, or has no patience for several.
        while (first := assembly.first_missing()) is not None:
            self._stream(assembly, first, assembly.next_noted(first), self._ending)

    def _bring_at_once(self, assembly: Assembly, missing: Sequence[int], connections: int) -> None:
        """Have each connection bring the first part that nobody brings, until none is left or all of it is sent."""
        self._waiting.extend(missing)
        self._up = min(connections, len(missing))
        group = Ending(self._ending.stopping)
        with group.waking(self._lines.wake), ThreadPoolExecutor(self._up, thread_name_prefix="fetch-line") as pool:
            for _ in range(self._up):
                pool.submit(group.guarded, lambda: self._bring_some(assembly, group))
        if group.error is not None:
            raise group.error
        self._ending.check()

    def _bring_some(self, assembly: Assembly, group: Ending) -> None:
        """Bring parts by one connection. When the source has no patience for it, it stands down if another is up."""
        while (number := self._next()) is not None:
            try:
                if not self._stream(assembly, number, number + 1, group):
                    group.stop()
                    return
            except RateLimited:
                if not self._stands_down(number):
                    raise
                return
        self._stands_down()

    def _next(self) -> int | None:
        with self._lines.changed:
            return self._waiting.popleft() if self._waiting else None

    def _stands_down(self, number: int | None = None) -> bool:
        """Leave the rest, and a part that was not brought, to other connections; False where there is none."""
        with self._lines.changed:
            self._up -= 1
            if number is not None:
                self._waiting.appendleft(number)
            return self._up > 0

    def _stream(self, assembly: Assembly, first: int, stop: int | None, ending: Ending) -> bool:
        """Bring the parts from one up to before another (None: to the file's end) by one request.

        False where all of the file would come instead, which only who is alone lets come.
        """
        stopping, alone = ending.stopping, ending is self._ending
        begun = first * self._sizes.part_bytes
        end = None if stop is None else stop * self._sizes.part_bytes
        if end is not None and self._file.size_bytes is not None:
            end = min(end, self._file.size_bytes)
        with self._lines.connection(stopping), self._source.open(self._file, begun, stopping, end=end) as flow:
            if flow.offset > begun:
                sentence = f"{self._file.path} was sent from byte {flow.offset:,} on, and {begun:,} was asked for"
                raise NetworkError(sentence)
            if flow.offset < begun and not alone:
                return False
            filling = Filling(
                self._lines, assembly, stopping, part_bytes=self._sizes.part_bytes, size_bytes=self._file.size_bytes
            )
            try:
                return self._filled(filling, flow, begun, end if flow.offset == begun else None, alone=alone)
            finally:
                self._told(-filling.let_go())

    def _filled(self, filling: Filling, flow: Flow, begun: int, end: int | None, *, alone: bool) -> bool:
        file, position = self._file, flow.offset
        while True:
            # Where all of it should have come, there is no room for more of it: only its end is wanted.
            room = filling.spare if position == (file.size_bytes if end is None else end) else filling.room(position)
            count = flow.readinto(room)
            self._ending.check()
            if not count:
                break
            if begun == 0 and end is not None and position + count > end:
                # Of the file's begin nothing but its length tells a part from the whole.
                if not alone:
                    return False
                end = None
            self._check_size(position + count, end)
            if room is filling.spare:
                filling.add(position, room[:count], self._told)
            else:
                self._told(filling.came(position, count))
            position += count
        if position < begun:
            raise SourceChanged(f"{file.path} is shorter than what came of it before; it is begun anew")
        wanted = file.size_bytes if end is None else end
        if wanted is not None and position != wanted:
            raise NetworkError(f"{file.path} ended after {position:,} of {wanted:,} bytes")
        # Only now: what is not all of it is not stored, for its last part would stand where others belong.
        filling.end(position, last=end is None)
        return True

    def _check_size(self, size_bytes: int, end: int | None) -> None:
        """See that no more came than may, of the file and of what was asked for."""
        file, most = self._file, self._sizes.max_file_bytes
        if size_bytes > most:
            raise too_large(file, most)
        if file.size_bytes is not None and size_bytes > file.size_bytes:
            raise SourceChanged(f"{file.path} has more than the {file.size_bytes:,} bytes announced; it is begun anew")
        if end is not None and size_bytes > end:
            raise NetworkError(f"{file.path} was sent beyond byte {end:,}, up to which it was asked for")


def too_large(file: RemoteFile, most: int) -> FileTooLarge:
    """Say that a file is larger than allowed."""
    return FileTooLarge(f"{file.path} has more than the {most:,} bytes that PENSTOCK_FETCHER_MAX_FILE_BYTES allows")
