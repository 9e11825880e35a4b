"""Execution providers: what ONNX Runtime computes on, as the setting names it and as this build has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from services.common.errors import FailedPrecondition

SUFFIX = "ExecutionProvider"
CPU = f"CPU{SUFFIX}"
# Calls models of another server over the network, which is no way to run the files that were registered.
REMOTE = frozenset({f"Azure{SUFFIX}"})
_ENTRY = re.compile(r"\s*([A-Za-z0-9_]+)\s*(?:\(([^()]*)\))?\s*(?:,|$)")
Provider = tuple[str, dict[str, str]]


def chosen_providers(setting: str, available: Sequence[str]) -> list[Provider]:
    """Read `cuda(device_id=1), cpu`: the names in order of preference, each with its options in brackets.

    `available` are ONNX Runtime's own names. The CPU always comes last: it takes what the others do not.
    Raises FailedPrecondition: EXECUTION_PROVIDER_MISSING where this build lacks one, INVALID_SETTING.
    """
    names = {name.removesuffix(SUFFIX).lower(): name for name in available if name not in REMOTE}
    providers: list[Provider] = []
    position = 0
    while position < len(setting):
        entry = _ENTRY.match(setting, position)
        if entry is None:
            sentence = f"execution providers {setting!r} cannot be read; write them like cuda(device_id=0),cpu"
            raise FailedPrecondition(sentence, reason="INVALID_SETTING")
        position = entry.end()
        name = names.get(entry[1].lower())
        if name is None:
            sentence = (
                f"this build of ONNX Runtime has no execution provider {entry[1]!r}; it has "
                f"{', '.join(sorted(names))}: choose of these, or install a build that has it (onnxruntime-gpu for "
                "cuda and tensorrt)"
            )
            raise FailedPrecondition(sentence, reason="EXECUTION_PROVIDER_MISSING")
        providers.append((name, _options(entry[2] or "")))
    if CPU not in [name for name, _ in providers]:
        providers.append((CPU, {}))
    return providers


def _options(text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            sentence = f"the execution provider's option {part!r} has no value; write it like device_id=0"
            raise FailedPrecondition(sentence, reason="INVALID_SETTING")
        options[key.strip()] = value.strip()
    return options


def check_in_use(session: Any, providers: Sequence[Provider]) -> None:
    """Refuse a session that ONNX Runtime opened without a provider asked for: it only logs that it fell back.

    Raises FailedPrecondition(EXECUTION_PROVIDER_FAILED).
    """
    used = session.get_providers()
    missing = [name.removesuffix(SUFFIX).lower() for name, _ in providers if name not in used]
    if missing:
        sentence = (
            f"the execution provider {missing[0]} could not be started here, so the model was not opened; its driver "
            "and libraries must be installed and a device be visible, or set PENSTOCK_EXECUTION_PROVIDERS=cpu"
        )
        raise FailedPrecondition(sentence, reason="EXECUTION_PROVIDER_FAILED")
