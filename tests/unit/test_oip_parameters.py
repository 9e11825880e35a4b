"""What a request of the Open Inference Protocol asks for by its parameters."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import InvalidArgument, Unimplemented
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip import parameters

Load = pb.RepositoryModelLoadRequest


def request(kind: str = "int64_param", **given: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="iris", id="r-1")
    for name, value in given.items():
        kinds = {bool: "bool_param", int: kind, str: "string_param", float: "double_param"}
        setattr(message.parameters[name], kinds[type(value)], value)
    return message


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_timeout_and_priority_come_as_either_whole_number(kind: str) -> None:
    message = request(kind, timeout=500_000, priority=3)
    assert (parameters.queue_timeout_s_of(message), parameters.priority_of(message)) == (0.5, 3)


def test_without_them_the_version_decides() -> None:
    for message in (request(), request(user_id="ada"), request(timeout=0, priority=0), request(timeout=-1)):
        assert (parameters.queue_timeout_s_of(message), parameters.priority_of(message)) == (0, 0)
        assert not parameters.skips_cache(message)
        assert not parameters.wants_final_response(message)


@pytest.mark.parametrize("given", [{"timeout": "soon"}, {"timeout": 1.5}, {"priority": True}, {"priority": -1}])
def test_a_parameter_that_is_no_whole_number_is_refused_by_its_name(given: dict[str, Any]) -> None:
    message = request(**given)
    with pytest.raises(InvalidArgument) as caught:
        _ = parameters.queue_timeout_s_of(message), parameters.priority_of(message)
    assert caught.value.reason == "INVALID_PARAMETER"
    assert next(iter(given)) in caught.value.message


def test_the_cache_can_be_passed_by_and_final_responses_asked_for() -> None:
    assert parameters.skips_cache(request(skip_cache=True))
    assert parameters.wants_final_response(request(triton_enable_empty_final_response=True))


@pytest.mark.parametrize("sequence", [7, "seven"])
def test_sequences_are_refused_and_not_taken_for_single_requests(sequence: int | str) -> None:
    with pytest.raises(Unimplemented) as caught:
        parameters.refuse_sequences(request(sequence_id=sequence, sequence_start=True, sequence_end=False))
    assert caught.value.reason == "SEQUENCES_NOT_SERVED"


def test_a_sequence_of_0_is_none() -> None:
    parameters.refuse_sequences(request(sequence_id=0))
    parameters.refuse_sequences(request(sequence_id=""))


def test_the_caller_is_read_from_id_and_parameters() -> None:
    caller = parameters.caller_of(request(user_id="ada", session_id="s"))
    assert (caller.user_id, caller.session_id, caller.request_id) == ("ada", "s", "r-1")
    assert parameters.caller_of(request()).request_id == "r-1"


def test_ids_that_are_too_long_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parameters.caller_of(request(user_id="x" * 257))
    assert caught.value.violations[0].field == "user_id"
    with pytest.raises(InvalidArgument):
        parameters.caller_of(pb.ModelInferRequest(model_name=""))


def test_a_model_is_named_in_tritons_field_or_in_kserves() -> None:
    assert parameters.model_of(Load(model_name="iris")) == "iris"
    assert parameters.model_of(Load(repository_name="iris")) == "iris"
    assert parameters.model_of(Load(repository_name="shelf", model_name="iris")) == "iris"
    with pytest.raises(InvalidArgument):
        parameters.model_of(Load())


@pytest.mark.parametrize("name", ["config", "file:1/model.onnx"])
def test_a_load_that_brings_its_own_model_is_refused(name: str) -> None:
    message = Load(model_name="iris")
    message.parameters[name].string_param = "{}"
    with pytest.raises(Unimplemented) as caught:
        parameters.model_of(message)
    assert caught.value.reason == "REPOSITORY_PARAMETERS_NOT_SERVED"
