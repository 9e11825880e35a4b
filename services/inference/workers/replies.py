"""Replies as JSON: a result, or an error by its class, reason and sentence; and what commands decide."""

from __future__ import annotations

from typing import Any

from services.common import errors
from services.common.errors import DomainError, Internal, InvalidArgument
from services.inference.workers.commands import Decision, Reply

Document = dict[str, Any]


def to_document(reply: Reply) -> Document:
    """Write a reply."""
    error = reply.error
    if error is None:
        return {"worker": reply.worker, "result": reply.result}
    document: Document = {
        "kind": _kind_of(error),
        "message": error.message,
        "reason": error.reason,
        "metadata": error.metadata,
        "retry_after_s": error.retry_after_s,
    }
    if isinstance(error, InvalidArgument):
        document["violations"] = [(each.field, each.description) for each in error.violations]
    return {"worker": reply.worker, "error": document}


def from_document(document: Document) -> Reply:
    """Read a reply; an error comes back as its class of `services.common.errors`."""
    if "error" not in document:
        return Reply(document["worker"], document["result"])
    return Reply(document["worker"], {}, error_of(document["error"]))


def error_of(document: Document) -> DomainError:
    """Read an error."""
    kind = getattr(errors, document["kind"])
    error: DomainError = kind(document["message"], reason=document["reason"], metadata=document.get("metadata"))
    error.retry_after_s = document.get("retry_after_s")
    if isinstance(error, InvalidArgument):
        error.violations = tuple(errors.FieldViolation(*each) for each in document.get("violations", ()))
    return error


def decision_document(decision: Decision | None) -> Document | None:
    """Write what a command decides."""
    return None if decision is None else {"key": decision.key, "keeps": decision.keeps}


def decision_of(document: Document | None) -> Decision | None:
    """Read what a command decides."""
    return None if document is None else Decision(tuple(document["key"]), keeps=document["keeps"])


def _kind_of(error: DomainError) -> str:
    """Find the nearest class that every process knows."""
    known = (each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__)
    name = next(known)
    return Internal.__name__ if name == DomainError.__name__ else name
