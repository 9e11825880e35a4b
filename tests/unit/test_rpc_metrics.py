"""The counts of RPCs, as a scrape finds them at any moment."""

from __future__ import annotations

from collections.abc import Callable

from services.common.metrics import GrpcCollector


class WatchedCells:
    """A row's cells, which let somebody look after each write."""

    def __init__(self, cells: memoryview[int], look: Callable[[], None]) -> None:
        self._cells = cells
        self._look = look

    def __getitem__(self, index: int) -> int:
        return self._cells[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._cells[index] = value
        self._look()


def test_no_count_ever_goes_back_at_whatever_moment_it_is_read() -> None:
    collector = GrpcCollector()
    seen: list[dict[tuple[str, ...], float]] = [{}]

    def look() -> None:
        now = {
            (sample.name, *map(str, sample.labels.values())): sample.value
            for family in collector.collect()
            for sample in family.samples
        }
        assert all(now.get(key, 0) >= value for key, value in seen[-1].items())
        seen.append(now)

    rpc = collector.add("unary", "Service", "Method")
    rpc._cells = WatchedCells(rpc._cells, look)  # type: ignore[assignment] # as another process reads them
    for code in ("OK", "NOT_FOUND", "OK", "INTERNAL", "NOT_FOUND"):
        rpc.start()
        rpc.finish(code, 0.001)
    handled = {key[-1]: value for key, value in seen[-1].items() if key[0] == "grpc_server_handled_total"}
    assert handled == {"OK": 2, "NOT_FOUND": 2, "INTERNAL": 1}
    assert len(seen) == 1 + 5 * 4
