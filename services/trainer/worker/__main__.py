"""The worker's process: `python -m services.trainer.worker`.

With a run's token it works on that run and ends, as a job of a cluster does; with a run's id it asks for that run, as a
worker does that was called for it, and ends; with neither it asks for runs until it is told to end. Exit codes: 0 in
order; 1 a run's end could not be told; 2 it was called wrongly.
"""

from __future__ import annotations

import math
import random
import signal
import sys
import threading
import time
from types import FrameType
from typing import Final

import structlog
from pydantic import ValidationError

from penstock import Client, PenstockError, RetryPolicy
from penstock.api.trainer.v1 import worker_pb2 as pb
from services.common import flags, logs
from services.common.jobs import StopReason
from services.trainer.executing.local import LocalExecutor, LocalLimits
from services.trainer.worker.attempt import Attempts, processors
from services.trainer.worker.reporting import Reporting
from services.trainer.worker.settings import WorkerSettings

_log = structlog.get_logger(__name__)
OK, NOT_TOLD, MISUSED = 0, 1, 2
MAX_DELAY_S: Final = 5.0


class Worker:
    """Works until it is told to end, or has done its one run."""

    def __init__(self, settings: WorkerSettings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._ending = threading.Event()
        self._running: Reporting | None = None
        self._attempt = Attempts(client.training_worker, self._executor, self._started, settings.worker_folder)

    def run(self) -> int:
        """Work; gives the exit code."""
        if self._settings.run_token is not None:
            return OK if self._attempt(self._settings.run_token.get_secret_value()) else NOT_TOLD
        # Who asks for what comes has time; who was called for one run is there for that alone.
        until = time.monotonic() + self._settings.worker_patience_ms / 1000 if self._settings.worker_run else math.inf
        while not self._ending.is_set():
            try:
                claimed = self._claimed()
            except PenstockError as error:
                if not error.retryable or time.monotonic() >= until:
                    _log.error("no run is given to this worker", reason=error.reason, message=error.message)
                    return NOT_TOLD
                _log.info("the trainer does not answer", reason=error.reason, message=error.message)
                self._pause()
                continue
            if claimed.run_token:
                told = self._attempt(claimed.run_token)
                if self._settings.worker_once or self._settings.worker_run:
                    return OK if told else NOT_TOLD
            elif self._settings.worker_run:
                _log.info("it does not wait for this worker, or no more", run=str(self._settings.worker_run))
                return OK
            else:
                self._pause()
        return OK

    def _claimed(self) -> pb.ClaimTrainingTaskResponse:
        settings = self._settings
        run_id = str(settings.worker_run) if settings.worker_run else ""
        return self._client.training_worker.claim(settings.worker_name, settings.worker_labels, run_id=run_id)

    def end(self, number: int, frame: FrameType | None) -> None:
        """Hear a signal: what runs is given up, so that another worker goes on with it."""
        del number, frame
        self._ending.set()
        running = self._running
        if running is not None:
            # A handler runs between two steps of the main thread, which may hold what stopping needs.
            threading.Thread(target=running.stop, args=(StopReason.DRAINING,), daemon=True).start()

    def _executor(self, max_output_bytes: int) -> LocalExecutor:
        limits = LocalLimits(
            max_output_bytes=max_output_bytes,
            threads=self._settings.worker_threads or processors(),
            script_network=self._settings.worker_scripts_network_enabled,
            require_sandbox=self._settings.worker_require_sandbox,
        )
        return LocalExecutor(limits)

    def _started(self, running: Reporting | None) -> None:
        self._running = running
        if running is not None and self._ending.is_set():
            running.stop(StopReason.DRAINING)

    def _pause(self) -> None:
        interval_s = self._settings.worker_poll_ms / 1000
        self._ending.wait(interval_s * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load, guards no secret


def main(arguments: list[str]) -> int:
    """Run the worker; gives the exit code."""
    try:
        said = flags.parse("trainer.worker", arguments, WorkerSettings, commands=())
    except SystemExit as end:  # argparse has said why, or has shown the help
        return MISUSED if end.code else OK
    try:
        settings = WorkerSettings(**said.settings)
    except ValidationError as error:
        for each in error.errors(include_input=False):
            sys.stderr.write(f"PENSTOCK_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}\n")
        return MISUSED
    logs.configure("trainer-worker", settings.log_level)
    try:
        client = _client(settings)
    except PenstockError as error:
        _log.error("not started", reason=error.reason, message=error.message)
        return MISUSED
    with client:
        worker = Worker(settings, client)
        signal.signal(signal.SIGTERM, worker.end)
        signal.signal(signal.SIGINT, worker.end)
        return worker.run()


def _client(settings: WorkerSettings) -> Client:
    patience_s = max(1.0, settings.worker_patience_ms / 1000)
    return Client(
        trainer=settings.trainer_address,
        token=settings.token.get_secret_value() if settings.token and settings.token_file is None else "",
        token_file=settings.token_file,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        insecure=settings.insecure,
        timeout_s=patience_s,
        # As many tries as the patience has room for, were each wait as long as waits get.
        retry=RetryPolicy(attempts=max(5, round(patience_s / MAX_DELAY_S * 2)), max_delay_s=MAX_DELAY_S),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
