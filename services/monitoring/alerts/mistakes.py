"""Which failures are their callers' mistakes: of those a service is no worse, and no training mends them.

An event has the reason of its error and not its gRPC code, so they are told by their reasons, as the inference service
gives them; a test holds the list to have all that it refuses as malformed. Events of models that others serve may have
a gRPC code's name for a reason. See docs/adr/0012-whose-fault-an-error-is.md.
"""

from __future__ import annotations

from typing import Final

from services.monitoring.rollups.models import Counts

_CODES: Final = (
    "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNAUTHENTICATED",
    "PERMISSION_DENIED", "CANCELLED",
)  # fmt: skip
_MALFORMED: Final = (
    "BYTES_TRUNCATED", "DATATYPE_MISMATCH", "DIMENSION_MISMATCH", "DUPLICATE_INPUT", "ENTITY_COUNT_MISMATCH",
    "INPUTS_REQUIRED", "INPUT_REFUSED", "INVALID_FIELD", "INVALID_LABELS", "INVALID_MESSAGES", "INVALID_PARAMETER",
    "INVALID_SHAPE", "INVALID_UTF8", "MALFORMED_REQUEST", "MALFORMED_ROW", "MISSING_INPUT", "MIXED_CONTENTS",
    "NOT_ONE_ROW", "RAGGED_INPUT",
    "RANK_MISMATCH", "RAW_COUNT_MISMATCH", "RAW_ONLY_DATATYPE", "ROW_TOO_LONG", "SHAPE_MISMATCH", "TOO_LARGE",
    "TOO_MANY", "TOO_MANY_ROWS", "UNKNOWN_INPUT", "UNKNOWN_OUTPUT", "UNSUPPORTED_DATATYPE", "UNSUPPORTED_SETTING",
    "UNSUPPORTED_VALUE", "VALUE_OUT_OF_RANGE",
)  # fmt: skip
_ASKED_AMISS: Final = (
    "MODEL_NOT_FOUND", "NOT_AN_EMBEDDING_MODEL", "NOT_A_GENERATING_MODEL", "SHARED_MEMORY_OUT_OF_RANGE",
    "SHARED_MEMORY_REGION_NOT_FOUND", "SHARED_MEMORY_SHRUNK", "SHARED_MEMORY_TOO_LARGE", "SHARED_MEMORY_TOO_SMALL",
    "VERSION_NOT_FOUND", "WRONG_MODE",
)  # fmt: skip
CALLERS_MISTAKES: Final = frozenset({*_CODES, *_MALFORMED, *_ASKED_AMISS})


def mistake_count(counts: Counts) -> int:
    """Count the predictions that failed by their callers' mistakes."""
    return sum(count for reason, count in counts.errors.items() if reason in CALLERS_MISTAKES)


def server_error_count(counts: Counts) -> int:
    """Count the predictions that failed otherwise: those are the server's, or the model's."""
    return counts.error_count - mistake_count(counts)


def valid_count(counts: Counts) -> int:
    """Count the predictions that were no mistakes of their callers: what server errors are a share of.

    Many mistakes hide no outage: https://sre.google/workbook/implementing-slos/ holds good events against valid ones.
    """
    return counts.inference_count - mistake_count(counts)
