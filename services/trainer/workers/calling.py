"""Workers that are called: told by a webhook that a run waits for them, in the transaction from which on it does.

A message bears no token: who is called asks for the run as any remote worker does, with its own key, and is given one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, field_validator

from services.common.errors import FailedPrecondition
from services.common.jobs import JobConnection
from services.common.outbox import Message, Outbox, Undeliverable
from services.common.outbox.webhooks import NotDelivered, Webhook, Webhooks, secret_problem
from services.trainer.task import Task
from services.trainer.workers.models import OutsideTask
from services.trainer.workers.store import OutsideStore

VERSION: Final = 1
MAX_RECEIVERS: Final = 100
MAX_TITLE_CHARS: Final = 200
GONE: Final = "RECEIVER_GONE"
SETTING: Final = "PENSTOCK_TRAINER_REMOTE_WEBHOOKS"


class Receiver(BaseModel):
    """Who is called: where, signed with what ('': with nothing), and for runs that ask for no other labels."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    url: SecretStr
    secret: SecretStr = SecretStr("")
    labels: frozenset[str] = frozenset()

    @field_validator("secret")
    @classmethod
    def _can_sign(cls, secret: SecretStr) -> SecretStr:
        if secret.get_secret_value() and (problem := secret_problem(secret.get_secret_value())):
            raise ValueError(problem)
        return secret


_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
_RECEIVERS: Final = TypeAdapter(Annotated[dict[_Name, Receiver], Field(max_length=MAX_RECEIVERS)])


def read_receivers(text: str) -> dict[str, Receiver]:
    """Read who is called, by name, from JSON; raises FailedPrecondition (WEBHOOKS_INVALID), which shows nothing."""
    try:
        return _RECEIVERS.validate_json(text or "{}")
    except ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
        raise FailedPrecondition(f"{SETTING} cannot be read: {where}", reason="WEBHOOKS_INVALID") from None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits for a remote worker: since when, and for how many seconds."""

    outside: OutsideTask
    task: Task
    since: datetime
    wait_s: float


class Calls:
    """Calls workers by the outbox: `call` writes, `deliver` is what the outbox's workers call."""

    def __init__(
        self, outbox: Outbox, store: OutsideStore, receivers: Mapping[str, Receiver], webhooks: Webhooks, address: str
    ) -> None:
        """`address`: where workers reach this service."""
        self._outbox = outbox
        self._store = store
        self._receivers = receivers
        self._webhooks = webhooks
        self._address = address

    def call(self, connection: JobConnection, waiting: Waiting) -> None:
        """Have the first receiver called that has what a task asks for; in the transaction from which on it waits."""
        name = self._receiver_of(waiting.outside.labels)
        if name is None:
            return
        message_id = waiting.outside.task_id  # one call a task: whoever follows it later finds what became of it
        document = call_document(waiting, message_id, name, self._address)
        body = json.dumps({"task_id": str(message_id), "document": document}, ensure_ascii=False).encode()
        self._outbox.put(
            connection,
            name,
            body,
            ordering_key=str(waiting.outside.run_id),
            message_id=message_id,
            give_up_s=waiting.wait_s,
        )

    def deliver(self, message: Message) -> None:
        """Post what a message says to its receiver, unless nobody needs to come any more; raises as `Deliver` says.

        All that a receiver answers may pass, but that it is gone: it may be set right while the run waits, which is not
        for long, and nobody else is called for it.
        """
        said = json.loads(message.body)
        if not self._store.waits(UUID(said["task_id"])):
            return
        receiver = self._receivers.get(message.destination)
        if receiver is None:
            sentence = f"{SETTING} names no {message.destination} any more"
            raise Undeliverable(sentence, reason=GONE)
        webhook = Webhook(receiver.url.get_secret_value(), receiver.secret.get_secret_value())
        document = json.dumps(said["document"], ensure_ascii=False, separators=(",", ":"))
        try:
            self._webhooks.post(webhook, message.message_id, document.encode())
        except Undeliverable as error:
            if error.reason == GONE:
                raise
            raise NotDelivered(error.message, reason=error.reason) from error

    def trouble(self, task_id: UUID) -> str:
        """Say in a sentence why a task's call has not arrived; '' where it has, or nobody knows of any fault."""
        if not self._receivers:
            return ""
        call = self._outbox.deliveries([task_id]).get(task_id)
        if call is None or not call.last_error:
            return ""
        return f"the call for a worker {'was given up' if call.given_up else 'has not arrived'}: {call.last_error}"

    def _receiver_of(self, labels: Sequence[str]) -> str | None:
        return next((name for name, each in self._receivers.items() if each.labels.issuperset(labels)), None)


def call_document(waiting: Waiting, message_id: UUID, receiver: str, address: str) -> dict[str, Any]:
    """Write what a receiver is sent; docs/webhooks.md describes it: fields are added, none changes its meaning."""
    outside, task = waiting.outside, waiting.task
    wanted = f", by a worker with {', '.join(outside.labels)}" if outside.labels else ""
    title = f"WAITING: {task.model}, to be trained by {task.recipe}{wanted}"
    return {
        "type": "training",
        "version": VERSION,
        "id": str(message_id),
        "time": _time(waiting.since),
        "title": title if len(title) <= MAX_TITLE_CHARS else title[: MAX_TITLE_CHARS - 1] + "…",
        "text": f"{title}\nRun: penstock train get {outside.run_id}\n"
        f"Worker: python -m services.trainer.worker --worker-run {outside.run_id}",
        "state": "WAITING",
        "receiver": receiver,
        "trainer_address": address,
        "deadline_time": _time(waiting.since + timedelta(seconds=waiting.wait_s)),
        "run": {
            "id": str(outside.run_id),
            "model": task.model,
            "recipe": task.recipe,
            "type": str(task.type),
            "attempt_count": task.attempt,
            "labels": list(outside.labels),
        },
    }


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
