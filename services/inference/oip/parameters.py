"""What a request of the Open Inference Protocol asks for by its parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from services.common.errors import InvalidArgument, Unimplemented
from services.inference.convert import check_ids
from services.inference.lookups.lookups import check_ids as check_entities
from services.inference.models import Caller
from services.inference.oip import open_inference_pb2 as pb
from services.inference.shared_memory.regions import Place

if TYPE_CHECKING:
    from google.protobuf.internal.containers import MessageMap

REGION: Final = "shared_memory_region"
OFFSET: Final = "shared_memory_offset"
SIZE: Final = "shared_memory_byte_size"
_NOBODY: Final = Caller()
_NO_WISHES: Final = (0.0, 0, False)


def caller_of(request: pb.ModelInferRequest) -> Caller:
    """Read who asks: `id` is the request's, and the parameters `user_id` and `session_id` say for whom."""
    if not request.parameters:
        request_id = request.id
        check_ids(request.model_name, {"id": request_id} if request_id else {})
        return Caller(request_id=request_id) if request_id else _NOBODY
    ids = {
        "user_id": request.parameters["user_id"].string_param if "user_id" in request.parameters else "",
        "session_id": request.parameters["session_id"].string_param if "session_id" in request.parameters else "",
        "request_id": request.id,
    }
    check_ids(request.model_name, ids)
    return Caller(ids["user_id"], ids["session_id"], ids["request_id"])


def wishes_of(request: pb.ModelInferRequest) -> tuple[float, int, bool]:
    """Read `queue_timeout_s_of`, `priority_of` and `skips_cache`; raises as they and `refuse_sequences` do."""
    if not request.parameters:  # asked once for all of them: nearly every request has none
        return _NO_WISHES
    refuse_sequences(request)
    return queue_timeout_s_of(request), priority_of(request), skips_cache(request)


def queue_timeout_s_of(request: pb.ModelInferRequest) -> float:
    """Read the parameter `timeout`, in microseconds: how long the request may wait; 0, or none: as its version says."""
    timeout_us = whole_number(request.parameters, "timeout")
    return max(0, timeout_us) / 1e6


def priority_of(request: pb.ModelInferRequest) -> int:
    """Read the parameter `priority`: 1 goes first; 0, or none, is the version's default level."""
    priority = whole_number(request.parameters, "priority")
    if priority < 0:
        raise _refused("priority", f"{priority} came; send 1 or more, or 0 for the default level")
    return priority


def skips_cache(request: pb.ModelInferRequest) -> bool:
    """Read our own parameter `skip_cache`."""
    return "skip_cache" in request.parameters and request.parameters["skip_cache"].bool_param


def entity_ids_of(request: pb.ModelInferRequest) -> tuple[str, ...]:
    """Read our own parameter `entity_ids`, a JSON list of texts; none where it is not there.

    Raises InvalidArgument: it is no such list (INVALID_PARAMETER), or as `lookups.check_ids` does.
    """
    if not request.parameters or "entity_ids" not in request.parameters:
        return ()
    try:
        ids = json.loads(request.parameters["entity_ids"].string_param)
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise _refused("entity_ids", 'send a JSON list of texts, such as ["ada"], one a row')
    check_entities(tuple(ids))
    return tuple(ids)


def refuse_sequences(request: pb.ModelInferRequest) -> None:
    """Pass, or raise Unimplemented(SEQUENCES_NOT_SERVED): no model here remembers the requests before."""
    if "sequence_id" not in request.parameters:
        return
    sequence = request.parameters["sequence_id"]
    if sequence.int64_param or sequence.uint64_param or sequence.string_param:
        raise Unimplemented(
            "sequences of requests are not served: no model here remembers the one before; leave sequence_id out",
            reason="SEQUENCES_NOT_SERVED",
        )


def wants_final_response(request: pb.ModelInferRequest) -> bool:
    """Read the parameter by which a stream's client asks that each request's last answer says that it is that."""
    name = "triton_enable_empty_final_response"
    return bool(request.parameters) and name in request.parameters and request.parameters[name].bool_param


def model_of(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """Read which model is meant: Triton's clients say it in one field, KServe's in another.

    Raises:
        InvalidArgument: neither says so (INVALID_FIELD).
        Unimplemented: Triton's client brings files or a configuration along (REPOSITORY_PARAMETERS_NOT_SERVED).
    """
    brought = sorted(name for name in request.parameters if name == "config" or name.startswith("file:"))
    if brought:
        raise Unimplemented(
            f"{', '.join(brought)[:200]}: models and their settings come from the registry; register a version there",
            reason="REPOSITORY_PARAMETERS_NOT_SERVED",
        )
    model = request.model_name or request.repository_name
    if not model:
        raise InvalidArgument.field("model_name", "none came; say which model", reason="INVALID_FIELD")
    return model


def place_of(name: str, parameters: MessageMap[str, pb.InferParameter]) -> Place | None:
    """Read where in shared memory a tensor lies; None where it travels in the message.

    Raises InvalidArgument(INVALID_PARAMETER): the region, the offset or the size is not what it must be.
    """
    if REGION not in parameters:
        return None
    region = parameters[REGION].string_param
    size_bytes, offset_bytes = whole_number(parameters, SIZE), whole_number(parameters, OFFSET)
    if not region or size_bytes < 0 or offset_bytes < 0 or SIZE not in parameters:
        raise _refused(name, f"send {REGION} as a text, {SIZE} as a whole number, and {OFFSET}, if any, likewise")
    return Place(region, offset_bytes, size_bytes)


def class_count_of(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> int:
    """Read how many of the best classes are wanted in place of the scores; 0: the scores."""
    if "classification" not in output.parameters:
        return 0
    count = whole_number(output.parameters, "classification")
    if count <= 0:
        raise _refused("classification", f"{count} came; send how many of the best classes to give, 1 or more")
    return count


def whole_number(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    """Read a parameter that clients send as int64 or as uint64; 0 where it is not there."""
    if name not in parameters:
        return 0
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise _refused(name, "a whole number is expected")
    return int(getattr(parameter, kind))


def _refused(name: str, sentence: str) -> InvalidArgument:
    return InvalidArgument.field(f"parameters[{name}]", sentence, reason="INVALID_PARAMETER")
