"""What goes wrong with a run: each fault says whether trying again may help, and has a stable reason."""

from __future__ import annotations

from services.common.errors import FailedPrecondition, Unavailable

RETRYABLE = frozenset(
    {
        "REGISTRY_UNAVAILABLE", "INFERENCE_UNAVAILABLE", "MONITORING_UNAVAILABLE", "EXECUTOR_UNAVAILABLE",
        "BLOB_STORE_UNAVAILABLE", "DATABASE_UNAVAILABLE", "DATABASE_TIMEOUT", "LOCK_TIMEOUT", "TRANSACTION_CONFLICT",
        "WORKER_LOST",
    }
)  # fmt: skip
"""Reasons of which the same again may help."""

RECIPE_REASONS = frozenset(
    {
        "TRAINING_FAILED", "INVALID_DATA", "INVALID_PARAMETERS", "LOSS_NOT_FINITE", "OUT_OF_MEMORY", "TIME_LIMIT",
        "TOO_MUCH_OUTPUT", "INVALID_OUTCOME", "RECIPE_NOT_ALLOWED",
    }
)  # fmt: skip
"""Why a recipe did not do it: what a run's process says besides is TRAINING_FAILED."""


class TrainingFailed(FailedPrecondition):
    """The recipe did not do it: the same again fails the same way.

    Reasons: TRAINING_FAILED (it raised, or ended without an outcome), INVALID_DATA (rows that it cannot learn from: no
    label, one class only, nothing but missing values), INVALID_PARAMETERS, LOSS_NOT_FINITE, OUT_OF_MEMORY, TIME_LIMIT,
    TOO_MUCH_OUTPUT (a log or files beyond their limits), INVALID_OUTCOME (what it left is not what was asked for),
    RECIPE_NOT_ALLOWED.
    """

    default_reason = "TRAINING_FAILED"


class ExecutorUnavailable(Unavailable):
    """Where the run was to be, nobody answers. Tried again."""

    default_reason = "EXECUTOR_UNAVAILABLE"


class RegistryUnavailable(Unavailable):
    """The registry gives no answer. Tried again."""

    default_reason = "REGISTRY_UNAVAILABLE"


class InferenceUnavailable(Unavailable):
    """The inference service gives no answer, so that nothing can be validated. Tried again."""

    default_reason = "INFERENCE_UNAVAILABLE"


class RegistrationFailed(FailedPrecondition):
    """The registry does not take the version, or its validator refused it: the same again fails the same way."""

    default_reason = "REGISTRATION_FAILED"
