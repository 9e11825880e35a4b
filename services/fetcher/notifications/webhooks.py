"""Webhooks of fetches: checked and encrypted when a job is created, told in the transaction that ends it.

A schedule whose only time makes no job is told of as well: nobody waits for what never comes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from urllib.parse import urlsplit
from uuid import UUID

from penstock.ids import uuid7
from services.common.addresses import UrlRefused
from services.common.errors import InvalidArgument
from services.common.jobs import Job, JobConnection
from services.common.outbox import Delivery, Message, Outbox
from services.common.outbox.webhooks import Webhook, Webhooks
from services.common.sealing import Seal
from services.fetcher.models import FetchSpec, StoredWebhook
from services.fetcher.notifications.document import fetch_document, schedule_document
from services.fetcher.schedules.models import Schedule, Trouble
from services.fetcher.store.fetches import FetchStore


class FetchWebhooks:
    """Tells of ends by the outbox: `tell` writes, `deliver` is what the outbox's workers call.

    A message bears its receiver, encrypted as the job has it, so that it arrives although the job was deleted. To the
    outbox a receiver is its host: one that is slow or down holds up no other.
    """

    def __init__(self, outbox: Outbox, fetches: FetchStore, seal: Seal, webhooks: Webhooks) -> None:
        self._outbox = outbox
        self._fetches = fetches
        self._seal = seal
        self._webhooks = webhooks

    def checked(self, webhook: Webhook) -> StoredWebhook:
        """See that a webhook may be posted to, as far as that is known now, and give it as it is kept.

        Raises:
            InvalidArgument: it may not be (URL_NOT_ALLOWED); says why, and no more of it than the host.
            FailedPrecondition: it is secret, and there is no key (SECRETS_KEY_MISSING, SECRETS_KEY_INVALID).
        """
        try:
            shown_url = self._webhooks.shown(webhook.url)
        except UrlRefused as error:
            raise InvalidArgument.field("webhook.url", error.message, reason=error.reason) from error
        target = json.dumps(asdict(webhook))
        is_open = not webhook.secret and shown_url.endswith("/")
        if is_open and not self._seal.ready:
            return StoredWebhook(shown_url, signed=False, target=target, sealed=False)
        return StoredWebhook(shown_url, signed=webhook.secret != "", target=self._seal.seal(target.encode()).decode())

    def tell(self, connection: JobConnection, job: Job) -> None:
        """Put what tells of a job's end into the outbox, in the transaction that ends it; see `OnEnd`."""
        webhook = FetchSpec.of(job.payload).webhook
        if webhook is None:
            return
        message_id = UUID(uuid7())
        self._put(connection, webhook, job.job_id, fetch_document(job, message_id), message_id)
        self._fetches.told(connection, job.job_id, message_id)

    def tell_of_schedule(self, connection: JobConnection, schedule: Schedule, trouble: Trouble) -> None:
        """Tell that a schedule's only time made no job, in the transaction that gives it up."""
        if schedule.spec.webhook is not None:
            message_id = UUID(uuid7())
            document = schedule_document(schedule, trouble, message_id)
            self._put(connection, schedule.spec.webhook, schedule.schedule_id, document, message_id)

    def deliveries(self, jobs: Iterable[Job]) -> Mapping[UUID, Delivery]:
        """Say what became of the messages that told of jobs' latest ends, by the message's id."""
        told = [message_id for job in jobs if (message_id := FetchSpec.of(job.payload).webhook_message_id)]
        return self._outbox.deliveries(told) if told else {}

    def _put(
        self, connection: JobConnection, webhook: StoredWebhook, subject: UUID, document: bytes, message_id: UUID
    ) -> None:
        said = {"webhook": asdict(webhook), "document": document.decode()}
        body = json.dumps(said, ensure_ascii=False).encode()
        host = urlsplit(webhook.shown_url).netloc
        self._outbox.put(connection, host, body, ordering_key=str(subject), message_id=message_id)

    def deliver(self, message: Message) -> None:
        """Post what a message says to its receiver; raises as `Deliver` says."""
        said = json.loads(message.body)
        self._webhooks.post(
            self._target(StoredWebhook(**said["webhook"])), message.message_id, said["document"].encode()
        )

    def _target(self, stored: StoredWebhook) -> Webhook:
        text = self._seal.open(stored.target.encode()) if stored.sealed else stored.target
        return Webhook(**json.loads(text))
