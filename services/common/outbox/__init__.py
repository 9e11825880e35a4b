"""A transactional outbox: what must reach somebody outside, written in the transaction that it tells of.

A service keeps a table with the columns of `columns.sql`, which its migration creates. `Outbox.put` writes a message on
the caller's connection: it is there if, and only if, what the caller wrote is. `OutboxWorkers`, in any number of
processes, claim messages and give each to a function of the service's until one attempt succeeds.

Promised: at least once, under the same id each time, so that a receiver that knows the id drops what it has; to one
destination one message at a time, and those of one ordering key in the order of putting, so that nobody hears of an end
before its beginning; others overtake one that waits for another try. A message that did not arrive for a day is given
up, kept as FAILED without its body, and counted; until then those of its key wait behind it.

A destination that is slow or down holds up no other: those of which a message failed and waits share one half of a
process's slots, of which there are two at least, one that hung is left alone for a while between attempts, and the
other half is for the rest. Before that is known of it, a destination that hangs takes a slot for one attempt: only as
many as there are slots, all hanging at the same moment for the first time, delay others by that much.
"""

from services.common.outbox.message import Delivery, Destination, Message, Undeliverable
from services.common.outbox.metrics import OutboxCollector
from services.common.outbox.store import MAX_BODY_BYTES, Outbox, OutboxConnection
from services.common.outbox.workers import Deliver, OutboxLimits, OutboxWorkers

__all__ = [
    "MAX_BODY_BYTES",
    "Deliver",
    "Delivery",
    "Destination",
    "Message",
    "Outbox",
    "OutboxCollector",
    "OutboxConnection",
    "OutboxLimits",
    "OutboxWorkers",
    "Undeliverable",
]
