"""How inference is to serve a version: frozen values, kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import Base64Bytes, TypeAdapter

from services.common.errors import InvalidArgument


class QueueFullAction(StrEnum):
    """What happens to a request that finds the queue full."""

    REJECT = "REJECT"
    DISPLACE = "DISPLACE"


@dataclass(frozen=True, slots=True)
class WarmUpTensor:
    """An input of a warm-up request, its elements as they travel; in JSON they are base64."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: Base64Bytes


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What is run when a version is loaded; the inputs left out are zeros. 0: the default that the contract names."""

    tensors: tuple[WarmUpTensor, ...] = ()
    row_count: int = 0
    repeat_count: int = 0


@dataclass(frozen=True, slots=True)
class ResponseCachePolicy:
    """Whether and how answers are kept; 0: the server's default."""

    enabled: bool = False
    ttl_ms: int = 0
    max_answer_bytes: int = 0


class MissingFeatureAction(StrEnum):
    """What happens to a request for which a feature view has no value."""

    REFUSE = "REFUSE"
    USE_DEFAULT = "USE_DEFAULT"
    USE_NAN = "USE_NAN"


@dataclass(frozen=True, slots=True)
class FeatureViewPolicy:
    """How inputs are filled: from `view` (`name` or `name@2`; "": from none), by `names` where names differ.

    `names` and `defaults` go by the model's inputs and columns.
    """

    view: str = ""
    names: Mapping[str, str] = field(default_factory=dict, hash=False)
    missing_action: MissingFeatureAction | None = None
    defaults: Mapping[str, bool | float | str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How inference serves a version; 0 and None are the defaults that the contract names."""

    max_in_flight: int = 0
    pinned: bool = False
    max_batch_size: int = 0
    max_queue_delay_us: int = 0
    max_queue_size: int = 0
    queue_full_action: QueueFullAction | None = None
    priority_levels: int = 0
    default_priority: int = 0
    timeout_ms: int = 0
    instances: int = 0
    warm_up: tuple[WarmUp, ...] = ()
    preload: bool = False
    response_cache: ResponseCachePolicy = ResponseCachePolicy()
    feature_view: FeatureViewPolicy = FeatureViewPolicy()

    def check(self) -> None:
        """Let settings pass that agree with each other; raises InvalidArgument (OUT_OF_BOUNDS).

        A field alone can be right and yet not go with the others, which a change of that field does not name.
        """
        levels = self.priority_levels or 1
        if self.default_priority > levels:
            there = f"there are {levels}" if levels > 1 else "there is 1 level"
            raise InvalidArgument.field(
                "serving_settings.default_priority",
                f"got {self.default_priority}, and {there}; change priority_levels with it, or send 0 to {levels}",
                reason="OUT_OF_BOUNDS",
            )


_SETTINGS = TypeAdapter(ServingSettings)


def json_of(settings: ServingSettings) -> dict[str, Any]:
    """Write settings as the JSON that the database keeps."""
    document: dict[str, Any] = _SETTINGS.dump_python(settings, mode="json")
    return document
