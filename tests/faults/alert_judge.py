"""A replica that judges alert rules once, and is killed on the way.

    python -m tests.faults.alert_judge URL WHERE ERRORS TIME

WHERE is `telling` (the message is put, and nothing committed) or `kept` (all is committed, and nobody heard so).
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from typing import Any

from services.common.postgres import Database
from services.monitoring.notifications.channels import Channels
from tests.alert_replicas import Replica, SetClock
from tests.alerting import IRIS, Readings, counted


def die(*_: object) -> None:
    """End as a power cut would end it."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, where: str, errors: int, now: datetime) -> None:
    """Judge, and die."""
    with Database(url, pool_size=2) as database:
        replica = Replica(database, Readings({IRIS: counted(errors)}), SetClock(now))
        put = Channels.notify

        def put_and_die(*given: Any, **named: Any) -> Any:
            put(*given, **named)
            die()

        if where == "telling":
            Channels.notify = put_and_die  # type: ignore[method-assign] # it dies there
        replica.evaluation.take(replica.new_turn())
        die()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), datetime.fromisoformat(sys.argv[4]))
