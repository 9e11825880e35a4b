"""How a suite file says how inference is to serve: the contract's ServingSettings, field by field."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1.tensors_pb2 import Tensor
from penstock.cli.suites.reading import Fields
from penstock.errors import InvalidArgument
from penstock.tensors import DTYPES, to_tensor

# The registry knows the real limits; here only what a message can hold is refused.
_MOST = 2**31 - 1
_NUMBERS = (
    "max_in_flight", "max_batch_size", "max_queue_delay_us", "max_queue_size", "priority_levels", "default_priority",
    "timeout_ms", "instances",
)  # fmt: skip
_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "O": "U"}
"""The kinds of numpy that values may have as they are written, by the kind that the datatype takes."""


class QueueFullAction(enum.StrEnum):
    """What happens to a request that finds the queue full."""

    REJECT = "reject"
    DISPLACE = "displace"


class MissingAction(enum.StrEnum):
    """What happens to a request for which a feature view has no value."""

    REFUSE = "refuse"
    USE_DEFAULT = "use_default"
    USE_NAN = "use_nan"


class Datatype(enum.StrEnum):
    """The datatypes that values can be written in, as the Open Inference Protocol names them, in any case."""

    BOOL = "bool"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FP16 = "fp16"
    FP32 = "fp32"
    FP64 = "fp64"
    BYTES = "bytes"


def serving_settings(fields: Fields | None) -> pb.ServingSettings | None:
    """Read serving settings; None where the file says nothing of them."""
    if fields is None:
        return None
    numbers: dict[str, Any] = {name: fields.number(name, int, least=0, most=_MOST) or 0 for name in _NUMBERS}
    settings = pb.ServingSettings(
        **numbers,
        pinned=fields.truth("pinned") or False,
        preload=fields.truth("preload") or False,
        warm_up=[_warm_up(each) for each in fields.items("warm_up")],
        response_cache=_response_cache(fields.fields("response_cache")),
        feature_view=_feature_view(fields.fields("feature_view")),
    )
    action = fields.choice("queue_full_action", QueueFullAction)
    if action:
        settings.queue_full_action = pb.QueueFullAction.Value(f"QUEUE_FULL_ACTION_{action.name}")
    fields.done()
    return settings


def _response_cache(fields: Fields | None) -> pb.ResponseCachePolicy | None:
    if fields is None:
        return None
    policy = pb.ResponseCachePolicy(
        enabled=fields.truth("enabled") or False,
        ttl_ms=fields.number("ttl_ms", int, least=0, most=2**53) or 0,
        max_answer_bytes=fields.number("max_answer_bytes", int, least=0, most=2**53) or 0,
    )
    fields.done()
    return policy


def _feature_view(fields: Fields | None) -> pb.FeatureViewPolicy | None:
    if fields is None:
        return None
    policy = pb.FeatureViewPolicy(view=fields.text("view", required=True) or "", names=fields.pairs("names") or {})
    action = fields.choice("missing_action", MissingAction)
    if action:
        policy.missing_action = pb.MissingFeatureAction.Value(f"MISSING_FEATURE_ACTION_{action.name}")
    defaults = fields.free("defaults")
    if defaults:
        policy.defaults.update(defaults)
    fields.done()
    return policy


def _warm_up(fields: Fields) -> pb.WarmUpRequest:
    request = pb.WarmUpRequest(
        tensors=[_tensor(each) for each in fields.items("tensors")],
        row_count=fields.number("row_count", int, least=0, most=_MOST) or 0,
        repeat_count=fields.number("repeat_count", int, least=0, most=_MOST) or 0,
    )
    fields.done()
    return request


def _tensor(fields: Fields) -> Tensor:
    name = fields.text("name", required=True, limit=256) or ""
    datatype = fields.choice("datatype", Datatype, required=True)
    values = fields.value("values")
    if values is None:
        fields.complain("values", "has no value") if fields.has("values") else fields.complain("", "needs 'values'")
    fields.done()
    if datatype is None or values is None:
        return Tensor()
    try:
        return to_tensor(name, _array(datatype, values))
    except (ValueError, InvalidArgument) as error:
        fields.complain("values", str(error))
        return Tensor()


def _array(datatype: Datatype, values: Any) -> NDArray[Any]:
    """Make an array of nested lists; raises ValueError for ragged ones, and values that the datatype can't hold."""
    dtype = DTYPES[datatype.name]
    try:
        written = np.asarray(values)
    except ValueError as error:
        raise ValueError("are lists of different lengths; write as many values in each") from error
    if written.size and written.dtype.kind not in _KINDS[dtype.kind]:
        raise ValueError(f"are not all {datatype.name}; numbers stand without quotes, texts of BYTES in them")
    if dtype.kind in "iu" and written.size:
        bounds = np.iinfo(dtype)
        if not bounds.min <= written.min() <= written.max() <= bounds.max:
            raise ValueError(f"are beyond {datatype.name}, which is {bounds.min} to {bounds.max}")
    return written.astype(dtype)
