"""The execution providers that a setting names, on builds that have them and builds that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition
from services.inference.composition import runtimes_of
from services.inference.runtimes.onnx_providers import check_in_use, chosen_providers
from services.inference.runtimes.onnx_runtime import OnnxRuntime
from services.inference.settings import InferenceSettings

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU_BUILD = [TENSORRT, CUDA, "AzureExecutionProvider", CPU]


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ("cpu", [(CPU, {})]),
        ("", [(CPU, {})]),
        ("cuda", [(CUDA, {}), (CPU, {})]),
        ("CUDA( device_id = 1, a=b ) , cpu", [(CUDA, {"device_id": "1", "a": "b"}), (CPU, {})]),
        ("tensorrt(trt_fp16_enable=1),cuda", [(TENSORRT, {"trt_fp16_enable": "1"}), (CUDA, {}), (CPU, {})]),
    ],
)
def test_names_and_options_are_read_in_order(setting: str, chosen: list[object]) -> None:
    assert chosen_providers(setting, GPU_BUILD) == chosen


@pytest.mark.parametrize(
    ("setting", "reason", "said"),
    [
        ("cuda", "EXECUTION_PROVIDER_MISSING", "no execution provider 'cuda'; it has cpu"),
        ("azure", "EXECUTION_PROVIDER_MISSING", "'azure'"),
        ("cpu(", "INVALID_SETTING", "cannot be read"),
        ("cpu;cuda", "INVALID_SETTING", "cannot be read"),
        ("cpu(arena)", "INVALID_SETTING", "'arena' has no value"),
    ],
)
def test_what_this_build_lacks_is_refused_with_what_it_has(setting: str, reason: str, said: str) -> None:
    with pytest.raises(FailedPrecondition, match=said.replace("(", r"\(")) as caught:
        OnnxRuntime(execution_providers=setting)
    assert caught.value.reason == reason


def test_a_service_that_is_told_to_use_one_that_is_not_there_does_not_start(tmp_path: Path) -> None:
    settings = InferenceSettings(cache_dir=tmp_path, execution_providers="cuda(device_id=0),cpu")
    with pytest.raises(FailedPrecondition, match="it has cpu"):
        runtimes_of(settings)


class OnCpu:
    """A session that fell back, as ONNX Runtime opens one where a driver is missing: it only logs so."""

    def get_providers(self) -> list[str]:
        return [CPU]


def test_a_session_that_fell_back_to_another_provider_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="cuda could not be started") as caught:
        check_in_use(OnCpu(), [(CUDA, {}), (CPU, {})])
    assert caught.value.reason == "EXECUTION_PROVIDER_FAILED"
    check_in_use(OnCpu(), [(CPU, {})])
