"""A bar with lines below it, as it is drawn while a fetch or a training run goes on."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.progress import Progress
from rich.text import Text


class BarWithLines(Progress):
    """A bar, and below it what else there is to say."""

    below: Text = Text()

    def get_renderables(self) -> Iterator[RenderableType]:
        """Give the bar and the lines."""
        yield from super().get_renderables()
        if self.below.plain:
            yield self.below
