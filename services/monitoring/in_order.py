"""Several items of a stream at work at once, and their results in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(items: Iterator[T], work: Callable[[T], R], *, at_once: int) -> Iterator[R]:
    """Give the result of each item as soon as it and those before it are there; so many are worked on at once.

    The next item is read meanwhile. Where reading or work fails, the results of the items before come first.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="decode")
    workers = ThreadPoolExecutor(at_once, thread_name_prefix="store")
    results: deque[Future[R]] = deque()
    coming = reader.submit(next, items, None)
    try:
        while results or not _over(coming):
            awaited: list[Future[Any]] = list(results)[:1]
            if len(results) < at_once and not _over(coming):
                awaited.append(coming)
            done, _ = wait(awaited, return_when=FIRST_COMPLETED)
            if coming in done and not _over(coming):
                item = coming.result()
                coming = reader.submit(next, items, None)
                # The work knows whom it is for by the context of the call.
                results.append(workers.submit(copy_context().run, work, item))  # type: ignore[arg-type] # None is the end
            elif results and results[0].done():
                yield results.popleft().result()
        coming.result()
    finally:
        # Without waiting: the reader may stand at a stream that says nothing more until its status is out.
        reader.shutdown(wait=False, cancel_futures=True)
        workers.shutdown(cancel_futures=True)


def _over(coming: Future[T | None]) -> bool:
    return coming.done() and (coming.exception() is not None or coming.result() is None)
