"""What a worker elsewhere can be told."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, SecretStr
from pydantic_settings import NoDecode

from services.common.settings import AT_COMMAS, Settings


class WorkerSettings(Settings):
    """The settings of one worker."""

    trainer_address: str = "127.0.0.1:50055"
    """Where the trainer listens: host:port, with grpcs:// before it for TLS."""
    run_token: SecretStr | None = None
    """The token of the one run that is to be worked on; without it the worker asks for runs, with an operator's key."""
    token: SecretStr | None = None
    """An operator's API key, by which runs are asked for."""
    token_file: Path | None = None
    """A file that holds it, in place of `token`; read again when it changes."""
    ca_file: Path | None = None
    """The certificates that vouch for the trainer, PEM; with them TLS is spoken, unless the address says grpc://."""
    cert_file: Path | None = None
    """This worker's certificate, PEM, where the trainer asks for one."""
    key_file: Path | None = None
    """The private key of `cert_file`, PEM."""
    insecure: bool = False
    """Send tokens in plain text also to another machine."""
    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    """What people know this worker by; 1 to 128 characters."""
    worker_labels: Annotated[tuple[str, ...], NoDecode, AT_COMMAS] = ()
    """What it has, separated by commas, for example gpu: it is given runs that ask for these labels or fewer."""
    worker_poll_ms: Annotated[int, Field(ge=50, le=600_000)] = 5_000
    """How often it asks for a run while none waits."""
    worker_run: UUID | None = None
    """Ask for this run alone, as a worker does that was called for it, and end after it; at once where it waits no
    more, or asks for labels that this worker lacks."""
    worker_once: bool = False
    """End after one run."""
    worker_folder: Path | None = None
    """Where runs have their folders; by default the system's temporary folder."""
    worker_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """That libraries are told to compute with; 0: as many as this process has processors."""
    worker_scripts_network_enabled: bool = False
    """Whether scripts may connect to others; recipes of ours never do."""
    worker_require_sandbox: bool = False
    """Train nothing where the kernel has less than the whole sandbox."""
    worker_patience_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 600_000
    """How long a trainer that does not answer is waited for before what was made is given up, or the run that this
    worker was called for."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are left out."""
