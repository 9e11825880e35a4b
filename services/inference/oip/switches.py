"""The settings of traces and log, as Triton's clients write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.inference.control.log_settings import Value
from services.inference.oip import open_inference_pb2 as pb


def trace_settings_of(request: pb.TraceSettingRequest) -> dict[str, list[str]]:
    """Read what is to change."""
    return {name: list(setting.value) for name, setting in request.settings.items()}


def trace_response(settings: Mapping[str, Sequence[str]]) -> pb.TraceSettingResponse:
    """Write the settings."""
    return pb.TraceSettingResponse(
        settings={name: pb.TraceSettingResponse.SettingValue(value=values) for name, values in settings.items()}
    )


def log_settings_of(request: pb.LogSettingsRequest) -> dict[str, Value]:
    """Read what is to change; a setting without a value is an empty text."""
    found: dict[str, Value] = {}
    for name, setting in request.settings.items():
        kind = setting.WhichOneof("parameter_choice")
        found[name] = "" if kind is None else getattr(setting, kind)
    return found


def log_response(settings: Mapping[str, Value]) -> pb.LogSettingsResponse:
    """Write the settings."""
    response = pb.LogSettingsResponse()
    for name, value in settings.items():
        if isinstance(value, bool):
            response.settings[name].bool_param = value
        elif isinstance(value, int):
            response.settings[name].uint32_param = value
        else:
            response.settings[name].string_param = value
    return response
