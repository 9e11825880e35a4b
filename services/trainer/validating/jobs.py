"""What a validation that was asked for by itself is: frozen values, as its row has them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


class Rows(enum.StrEnum):
    """Which rows of a source are predicted: those that are held out, or all."""

    TEST = "TEST"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class NewValidation:
    """A validation as it was asked for; '' and none: as the model's training config and metadata say."""

    model: str
    version: str
    data_source: str = ""
    rows: Rows = Rows.TEST
    against: str = ""
    alone: bool = False
    label_column: str = ""
    slices: Sequence[str] = ()
    note: str = ""
    request_id: str = ""
    body_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ValidationSpec:
    """A validation's own columns.

    Attributes:
        version: exact.
        against: exact; '': it is compared with nothing.
        split: the parameter `split` of the training config; None: it says nothing.
        dataset: NAME/VERSION, once it is known.
        message: what it is at, for people.
        training_run_id: the run whose own validation it is.
    """

    model: str
    version: str
    against: str = ""
    data_source: str = ""
    rows: Rows = Rows.TEST
    split: Mapping[str, Any] | None = None
    label_column: str = "label"
    slices: Sequence[str] = ()
    note: str = ""
    dataset: str = ""
    message: str = ""
    training_run_id: str = ""

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Read the columns of a validation's row."""
        columns = {name: payload[name] for name in cls.__dataclass_fields__}
        return cls(**{**columns, "rows": Rows(payload["rows"]), "slices": tuple(payload["slices"])})
