"""The log's level and the traces' share, as Triton's clients read and change them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from services.common import logs
from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.control import log_settings, trace_settings
from services.inference.control.log_settings import LogSettings, level_of
from services.inference.control.trace_settings import TraceSettings
from services.inference.workers.commands import Commands, OneProcess


@pytest.fixture
def kept_level() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize(
    ("before", "switches", "after"),
    [
        ("info", {"log_info": False}, "warning"),
        ("info", {"log_warning": False}, "error"),
        ("error", {"log_info": True}, "info"),
        ("error", {"log_warning": True}, "warning"),
        ("info", {"log_verbose_level": 1}, "debug"),
        ("debug", {"log_verbose_level": 0}, "info"),
        ("warning", {"log_verbose_level": 0}, "warning"),
        ("info", {"log_error": True, "log_file": "", "log_format": "default"}, "info"),
    ],
)
def test_a_switch_moves_the_level(before: str, switches: dict[str, Any], after: str) -> None:
    assert level_of(switches, before) == after


@pytest.mark.parametrize(
    "switches",
    [{"log_file": "/tmp/x"}, {"log_error": False}, {"log_format": "ISO8601"}, {"log_info": 1}, {"nonsense": ""}],
)
def test_a_switch_that_does_nothing_here_is_refused(switches: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        level_of(switches, "info")
    assert caught.value.reason == "UNSUPPORTED_SETTING"


@pytest.mark.usefixtures("kept_level")
def test_the_level_changes_where_the_logs_are_written() -> None:
    commands = Commands()
    log_settings.add_commands(commands)
    settings = LogSettings(OneProcess(commands))
    logs.set_level("info")
    settings.change({"log_info": False})
    assert logging.getLogger().level == logging.WARNING
    assert settings.read() == {
        "log_error": True, "log_warning": True, "log_info": False, "log_verbose_level": 0,
    }  # fmt: skip
    settings.change({"log_verbose_level": 1})
    assert settings.read()["log_verbose_level"] == 1
    assert commands.decides(log_settings.SET_LEVEL, {"level": "debug"})


@dataclass
class Traced:
    """What traces a share of the requests."""

    share: float = 0.01


def tracing(share: float) -> tuple[Traced, TraceSettings]:
    commands, traces = Commands(), Traced(share)
    trace_settings.add_commands(commands, traces)
    return traces, TraceSettings(traces, OneProcess(commands))


def test_the_rate_is_read_and_changed() -> None:
    traces, settings = tracing(0.01)
    assert settings.read() == {
        "trace_level": ["TIMESTAMPS"], "trace_rate": ["100"], "trace_mode": ["opentelemetry"],
    }  # fmt: skip
    settings.change({"trace_rate": ["5"]}, "")
    assert traces.share == 0.2
    settings.change({"trace_level": ["OFF"]}, "")
    assert (traces.share, settings.read()["trace_level"]) == (0, ["OFF"])
    settings.change({"trace_level": ["TIMESTAMPS"], "trace_rate": []}, "")
    assert traces.share == 0.01, "a setting without a value is what it was at the start"


@pytest.mark.parametrize(
    ("changes", "model"),
    [
        ({"trace_rate": ["0"]}, ""),
        ({"trace_rate": ["-1"]}, ""),
        ({"trace_rate": ["often"]}, ""),
        ({"trace_rate": ["1", "2"]}, ""),
        ({"trace_level": ["TENSORS"]}, ""),
        ({"trace_mode": ["triton"]}, ""),
        ({"trace_file": ["/tmp/x"]}, ""),
        ({"trace_rate": ["5"]}, "iris"),
    ],
)
def test_a_trace_setting_that_does_nothing_here_is_refused(changes: dict[str, list[str]], model: str) -> None:
    traces, settings = tracing(0.01)
    with pytest.raises(InvalidArgument) as caught:
        settings.change(changes, model)
    assert (caught.value.reason, traces.share) == ("UNSUPPORTED_SETTING", 0.01)


def test_where_nothing_takes_traces_they_are_off_and_stay_off() -> None:
    settings = TraceSettings(None, OneProcess(Commands()))
    assert settings.read()["trace_level"] == ["OFF"]
    with pytest.raises(FailedPrecondition) as caught:
        settings.change({"trace_rate": ["5"]}, "")
    assert caught.value.reason == "TRACING_OFF"
