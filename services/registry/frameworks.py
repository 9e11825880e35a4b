"""Which frameworks somebody opens here: what nobody does would wait in VALIDATING for good."""

from __future__ import annotations

from services.common.errors import FailedPrecondition
from services.registry.models import Framework
from services.registry.store import Tables


def check_validator(tables: Tables, framework: Framework) -> None:
    """Let a framework pass that a validator opens, or of which nothing is known, as no validator was ever seen.

    Raises:
        FailedPrecondition: validators were seen, and none that opens it within the last minutes (NO_VALIDATOR).
    """
    known = tables.validations.known_frameworks()
    if known is not None and framework not in known:
        raise FailedPrecondition(
            f"no validator here opens {framework}; start one (python -m services.registry.validation) where its "
            f"runtime is installed; those that run open {', '.join(sorted(known)) or 'nothing'}",
            reason="NO_VALIDATOR",
        )
