"""As many connections as pay: the client asks a service of several workers, and opens them beside the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import penstock
from penstock import workers
from penstock.api.inference.v1.inference_pb2 import PredictResponse

Settings = dict[str, Any]


class Workers(grpc.GenericRpcHandler):
    """Stands for a service that says how many workers it has, and remembers who called."""

    def __init__(self, said: str | None) -> None:
        self.said = said
        self.peers: set[str] = set()
        self.asked = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        behaviour = self.describe if handler_call_details.method == workers.RPC else self.predict
        return grpc.unary_unary_rpc_method_handler(behaviour)

    def describe(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked += 1
        if self.said is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such thing")
        context.send_initial_metadata(((workers.HEADER, self.said or ""),))
        return b""

    def predict(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.peers.add(context.peer())
        return PredictResponse().SerializeToString()


@contextmanager
def serving(said: str | None) -> Iterator[tuple[Workers, str]]:
    handler = Workers(said)
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def predict_until(client: penstock.Client, met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline, "waited too long"
        client.inference.predict("iris", {"x": 1})


@pytest.fixture(params=["a key in memory", "a key in a file"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The two ways in which channels are kept."""
    (tmp_path / "token").write_text("key")
    return {"token": ""} if request.param == "a key in memory" else {"token_file": tmp_path / "token"}


def test_several_workers_get_several_connections_each(settings: Settings) -> None:
    with serving("2") as (handler, address), penstock.Client(inference=address, **settings) as client:
        predict_until(client, lambda: len(handler.peers) == 2 * workers.PER_WORKER)
        for _ in range(50):
            client.inference.predict("iris", {"x": 1})
        assert len(handler.peers) == 2 * workers.PER_WORKER
        assert handler.asked == 1


@pytest.mark.parametrize("said", ["1", "many", None])
def test_one_worker_and_a_service_that_knows_of_none_get_one(said: str | None, settings: Settings) -> None:
    with serving(said) as (handler, address), penstock.Client(inference=address, **settings) as client:
        predict_until(client, lambda: handler.asked == 1)
        for _ in range(50):
            client.inference.predict("iris", {"x": 1})
        assert len(handler.peers) == 1


def test_who_says_how_many_connections_asks_nobody() -> None:
    with serving("2") as (handler, address), penstock.Client(inference=address, token="", connections=3) as client:
        predict_until(client, lambda: len(handler.peers) == 3)
        assert handler.asked == 0
