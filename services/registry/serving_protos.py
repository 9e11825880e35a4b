"""Serving settings: protos to what the use cases take, each field checked by itself, and back."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from math import prod
from typing import Final

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from services.common import checks
from services.common.errors import InvalidArgument
from services.registry.serving import (
    FeatureViewPolicy,
    QueueFullAction,
    ResponseCachePolicy,
    ServingSettings,
    WarmUp,
    WarmUpTensor,
)
from services.registry.serving_features import feature_view, view_message

FIELD: Final = "serving_settings"
MAX_ROWS: Final = 65_536
MAX_WARM_UPS: Final = 16
MAX_WARM_UP_BYTES: Final = 1024 * 1024
MAX_REPEATS: Final = 100
MAX_TENSORS: Final = 256
MAX_RANK: Final = 32
MAX_TTL_MS: Final = 30 * 24 * 3_600_000
_LIMITS: Final = {
    "max_in_flight": 100_000,
    "max_batch_size": MAX_ROWS,
    "max_queue_delay_us": 10_000_000,
    "max_queue_size": 100_000,
    "priority_levels": 16,
    "default_priority": 16,
    "timeout_ms": 3_600_000,
    "instances": 64,
}
_ELEMENT_BYTES: Final = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip
_LENGTH: Final = struct.Struct("<I")


def serving_settings(settings: pb.ServingSettings) -> ServingSettings:
    """Read how a version is served. What fields mean together is for `ServingSettings.check`."""
    for name, most in _LIMITS.items():
        checks.between(f"{FIELD}.{name}", getattr(settings, name), 0, most)
    action = checks.enum_name(
        f"{FIELD}.queue_full_action", pb.QueueFullAction, settings.queue_full_action, "QUEUE_FULL_ACTION_"
    )
    return ServingSettings(
        **{name: getattr(settings, name) for name in _LIMITS},
        pinned=settings.pinned,
        queue_full_action=QueueFullAction(action) if action else None,
        warm_up=_warm_ups(settings.warm_up),
        preload=settings.preload,
        response_cache=_response_cache(settings.response_cache),
        feature_view=feature_view(settings.feature_view),
    )


def settings_message(settings: ServingSettings) -> pb.ServingSettings:
    """Write how a version is served; policies that say nothing are left unset."""
    message = pb.ServingSettings(
        **{name: getattr(settings, name) for name in _LIMITS},
        pinned=settings.pinned,
        queue_full_action=pb.QueueFullAction.Value(f"QUEUE_FULL_ACTION_{settings.queue_full_action or 'UNSPECIFIED'}"),
        warm_up=map(_warm_up_message, settings.warm_up),
        preload=settings.preload,
    )
    policy = settings.response_cache
    if policy != ResponseCachePolicy():
        message.response_cache.CopyFrom(
            pb.ResponseCachePolicy(
                enabled=policy.enabled, ttl_ms=policy.ttl_ms, max_answer_bytes=policy.max_answer_bytes
            )
        )
    if settings.feature_view != FeatureViewPolicy():
        message.feature_view.CopyFrom(view_message(settings.feature_view))
    return message


def _response_cache(policy: pb.ResponseCachePolicy) -> ResponseCachePolicy:
    checks.between(f"{FIELD}.response_cache.ttl_ms", policy.ttl_ms, 0, MAX_TTL_MS)
    checks.between(f"{FIELD}.response_cache.max_answer_bytes", policy.max_answer_bytes, 0, 2**31 - 1)
    return ResponseCachePolicy(policy.enabled, policy.ttl_ms, policy.max_answer_bytes)


def _warm_ups(requests: Iterable[pb.WarmUpRequest]) -> tuple[WarmUp, ...]:
    found = tuple(requests)
    _at_most(f"{FIELD}.warm_up", len(found), MAX_WARM_UPS)
    size_bytes = sum(len(tensor.raw) for each in found for tensor in each.tensors)
    if size_bytes > MAX_WARM_UP_BYTES:
        raise InvalidArgument.field(
            f"{FIELD}.warm_up",
            f"{size_bytes:,} bytes came; all tensors together may have {MAX_WARM_UP_BYTES:,}: leave inputs out, which "
            "are zeros then, or warm up with fewer rows",
            reason="TOO_LARGE",
        )
    return tuple(_warm_up(f"{FIELD}.warm_up[{number}]", each) for number, each in enumerate(found))


def _warm_up(field: str, request: pb.WarmUpRequest) -> WarmUp:
    checks.between(f"{field}.row_count", request.row_count, 0, MAX_ROWS)
    checks.between(f"{field}.repeat_count", request.repeat_count, 0, MAX_REPEATS)
    _at_most(f"{field}.tensors", len(request.tensors), MAX_TENSORS)
    tensors = tuple(_tensor(f"{field}.tensors[{number}]", each) for number, each in enumerate(request.tensors))
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidArgument.field(
            f"{field}.tensors", "two bear one name; each input comes once", reason="DUPLICATE_NAME"
        )
    return WarmUp(tensors, request.row_count, request.repeat_count)


def _tensor(field: str, tensor: tensors_pb2.Tensor) -> WarmUpTensor:
    name = checks.line(f"{field}.name", tensor.name)
    if not name:
        raise InvalidArgument.field(f"{field}.name", "empty; name the input as the model does", reason="INVALID_NAME")
    datatype = checks.enum_name(f"{field}.datatype", tensors_pb2.DataType, tensor.datatype, "DATA_TYPE_")
    if not datatype:
        allowed = ", ".join((*_ELEMENT_BYTES, "BYTES"))
        raise InvalidArgument.field(f"{field}.datatype", f"not given; send one of {allowed}", reason="INVALID_ENUM")
    checks.between(f"{field}.shape", len(tensor.shape), 0, MAX_RANK)
    for size in tensor.shape:
        checks.between(f"{field}.shape", size, 0, MAX_WARM_UP_BYTES)
    _check_raw(f"{field}.raw", datatype, prod(tensor.shape), tensor.raw)
    return WarmUpTensor(name, datatype, tuple(tensor.shape), tensor.raw)


def _check_raw(field: str, datatype: str, count: int, raw: bytes) -> None:
    if datatype == "BYTES":
        if not _is_framed(count, raw):
            raise InvalidArgument.field(
                field,
                f"{len(raw):,} bytes are not {count:,} elements; each is a 4-byte little-endian length and its bytes",
                reason="SHAPE_MISMATCH",
            )
    elif count * _ELEMENT_BYTES[datatype] != len(raw):
        raise InvalidArgument.field(
            field,
            f"{len(raw):,} bytes came; {count:,} elements of {datatype} take {count * _ELEMENT_BYTES[datatype]:,}",
            reason="SHAPE_MISMATCH",
        )


def _is_framed(count: int, raw: bytes) -> bool:
    position = found = 0
    while position + _LENGTH.size <= len(raw):
        position += _LENGTH.size + _LENGTH.unpack_from(raw, position)[0]
        found += 1
    return position == len(raw) and found == count


def _at_most(field: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidArgument.field(field, f"{count:,} came; at most {most} are allowed", reason="TOO_MANY")


def _warm_up_message(warm_up: WarmUp) -> pb.WarmUpRequest:
    return pb.WarmUpRequest(
        tensors=[
            tensors_pb2.Tensor(
                name=tensor.name,
                datatype=tensors_pb2.DataType.Value(f"DATA_TYPE_{tensor.datatype}"),
                shape=tensor.shape,
                raw=tensor.raw,
            )
            for tensor in warm_up.tensors
        ],
        row_count=warm_up.row_count,
        repeat_count=warm_up.repeat_count,
    )
