"""Penstock's SDK: register a model, predict, record what happened, and ask how good the model is.

    with penstock.Client() as client:
        client.registry.register_version("iris", "1.0.0", "iris.onnx")
        answer = client.inference.predict("iris", {"X": [5.1, 3.5, 1.4, 0.2]})

The names load when they are first used: importing `penstock` alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.errors import (
        Aborted,
        AlreadyExists,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        FieldViolation,
        Internal,
        InvalidArgument,
        NotFound,
        OutOfRange,
        PenstockError,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        ValidationFailed,
    )
    from penstock.ids import time_of, uuid7
    from penstock.monitoring import make_event
    from penstock.predictions import Prediction, make_request
    from penstock.retries import NO_RETRIES, RetryPolicy

__version__ = "0.1.0"

__all__ = [
    "NO_RETRIES",
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PenstockError",
    "PermissionDenied",
    "Prediction",
    "ResourceExhausted",
    "RetryPolicy",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "ValidationFailed",
    "make_event",
    "make_request",
    "time_of",
    "uuid7",
]

_HOMES = {
    "Client": "client",
    "NO_RETRIES": "retries",
    "Prediction": "predictions",
    "RetryPolicy": "retries",
    "make_event": "monitoring",
    "make_request": "predictions",
    "time_of": "ids",
    "uuid7": "ids",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(import_module(f"penstock.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
