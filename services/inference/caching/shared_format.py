"""An answer as bytes for other processes: checked when read, so that a damaged or foreign value is none.

value = "PSRC" · format (u8) · CRC-32 of what follows (u32) · ticket (32 bytes) · rows (u32) · TensorList
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from google.protobuf.message import DecodeError

from penstock.api.tensors.v1.tensors_pb2 import TensorList
from services.common.errors import InvalidArgument
from services.inference.caching.answers import KeptAnswer
from services.inference.tensor_protos import add_tensor, tensor_of

FORMAT: Final = 1
TICKET_BYTES: Final = 32
_HEAD: Final = struct.Struct("<4sBI")
_BODY: Final = struct.Struct(f"<{TICKET_BYTES}sI")
_MAGIC: Final = b"PSRC"


def encode(answer: KeptAnswer, ticket: bytes) -> bytes:
    """Write an answer."""
    tensors = TensorList()
    for name, tensor in answer.outputs.items():
        add_tensor(tensors.tensors, name, tensor)
    body = _BODY.pack(ticket, answer.row_count) + tensors.SerializeToString()
    return _HEAD.pack(_MAGIC, FORMAT, zlib.crc32(body)) + body


def decode(value: bytes, ticket: bytes) -> KeptAnswer | None:
    """Read an answer; None for what is not one, or was kept under another ticket. Its tensors are read-only."""
    if len(value) < _HEAD.size + _BODY.size:
        return None
    magic, form, checksum = _HEAD.unpack_from(value)
    if (magic, form) != (_MAGIC, FORMAT) or zlib.crc32(memoryview(value)[_HEAD.size :]) != checksum:
        return None
    found, row_count = _BODY.unpack_from(value, _HEAD.size)
    if found != ticket:
        return None
    try:
        tensors = TensorList.FromString(value[_HEAD.size + _BODY.size :])
        outputs = {tensor.name: tensor_of(tensor) for tensor in tensors.tensors}
    except (DecodeError, InvalidArgument):
        return None
    for tensor in outputs.values():
        tensor.flags.writeable = False
    return KeptAnswer(outputs, row_count)
