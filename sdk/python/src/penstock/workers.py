"""How many connections pay: a service of several workers says how many it has, and each connection reaches one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import grpc

RPC = "/inference.GRPCInferenceService/ServerMetadata"
HEADER = "penstock-workers"
"""In the initial metadata of its answer."""
TIMEOUT_S = 10.0
PER_WORKER = 4
"""The kernel deals connections to workers by chance: of so many for each, hardly one worker is left out."""
MOST = 64


def ask(channel: grpc.Channel, metadata: Sequence[tuple[str, str]], heard: Callable[[int], None]) -> None:
    """Ask a service how many connections pay, without waiting; `heard` hears of it where it is more than one.

    A service that does not answer, or knows nothing of workers, is left at one.
    """
    method = channel.unary_unary(RPC, request_serializer=bytes, response_deserializer=bytes)
    call = method.future(b"", timeout=TIMEOUT_S, metadata=tuple(metadata))

    def answered(done: Any) -> None:
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError, ValueError):
            workers = int(dict(done.initial_metadata() or ()).get(HEADER, "1"))
            if done.code() is grpc.StatusCode.OK and workers > 1:
                heard(min(PER_WORKER * workers, MOST))

    call.add_done_callback(answered)
