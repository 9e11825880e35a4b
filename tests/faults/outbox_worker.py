"""A process with an outbox, to be killed by the tests: `python -m tests.faults.outbox_worker URL RECEIVER WHERE`."""

from __future__ import annotations

import os
import signal
import sys
import threading

from services.common.addresses import AddressRules, AllowedHosts
from services.common.outbox import Message, OutboxLimits
from services.common.outbox.webhooks import Webhook, Webhooks
from tests.outbox import delivering, opened, put


def main(url: str, receiver: str, where: str) -> None:
    """Put a message, have it delivered, and die at the place that is named."""
    webhooks = Webhooks(AddressRules(AllowedHosts.parse("127.0.0.1")))

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deliver(message: Message) -> None:
        if where == "claimed":
            die()
        webhooks.post(Webhook(receiver), message.message_id, message.body)
        if where == "delivered":
            die()

    with opened(url) as (database, outbox):
        with database.transaction() as connection:
            outbox.put(connection, "team", b"{}")
            if where == "putting":
                die()
        if where == "put":
            die()
        with delivering(outbox, deliver, OutboxLimits(lease_s=60.0, poll_interval_s=0.02)):
            put(database, outbox, "other")
            threading.Event().wait(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
