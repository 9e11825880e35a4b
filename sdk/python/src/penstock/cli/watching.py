"""Watching a fetch or a training run from a terminal: it goes on elsewhere, whoever looks or stops looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from penstock.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched: its `noun`, the `command` that shows and ends it, and whose `service` tells of it."""

    noun: str
    command: str
    service: str

    @contextmanager
    def stream(self, output: Output, id_: str, watch: Callable[..., Generator[T, None, None]]) -> Iterator[Iterator[T]]:
        """Watch; where the service stays away, the error says how to take it up again."""
        from penstock.errors import PenstockError  # loads grpc, which `--help` must not wait for

        try:
            with closing(watch(id_, broken=output.away(self.service))) as watched:
                yield watched
        except PenstockError as error:
            if error.retryable:
                again = f"`{self.command} watch {id_}` shows it again"
                error.add_note(f"{self.noun} {id_} goes on when it is back: {again}")
            raise

    @contextmanager
    def by_a_person(self, output: Output, id_: str) -> Iterator[None]:
        """Tell whoever stops looking that it goes on."""
        try:
            yield
        except KeyboardInterrupt:
            again, end = f"{self.command} watch {id_}", f"{self.command} cancel {id_}"
            output.note(f"it goes on; to see it again: {again}; to end it: {end}")
            raise
