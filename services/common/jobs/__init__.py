"""Long work as leased rows in PostgreSQL: the row is the resource that users see.

A service keeps a table with the columns of `columns.sql`, which its migration creates, and columns of its own beside
them: what the work is. `JobStore` moves rows from state to state, `JobWorkers` claims them and runs a function of the
service's on each.

A claim is a lease with a fencing token, timed by the database's clock alone. Whoever lost it, by whatever pause or
skew, can neither report nor finish: all that a worker writes goes through a transaction that holds the row and has
compared the token. What the work does elsewhere it keys by the job's id, so that it may be done twice.
"""

from services.common.jobs.backoff import Backoff
from services.common.jobs.job import (
    TERMINAL,
    Failure,
    Job,
    JobState,
    JobWorker,
    Lease,
    LeaseLost,
    NewJob,
    Progress,
    Stopped,
    StopReason,
)
from services.common.jobs.run import JobRun
from services.common.jobs.store import Concurrency, JobConnection, JobFilters, JobStore
from services.common.jobs.workers import JobWorkers, WorkerLimits

__all__ = [
    "TERMINAL",
    "Backoff",
    "Concurrency",
    "Failure",
    "Job",
    "JobConnection",
    "JobFilters",
    "JobRun",
    "JobState",
    "JobStore",
    "JobWorker",
    "JobWorkers",
    "Lease",
    "LeaseLost",
    "NewJob",
    "Progress",
    "StopReason",
    "Stopped",
    "WorkerLimits",
]
