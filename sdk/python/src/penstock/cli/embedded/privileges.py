"""What a child may do, and that it never outlives us: prefixes for its command, made with util-linux's setpriv."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from penstock.cli.embedded.errors import EmbeddedError

UNPRIVILEGED_USERS = ("postgres", "nobody")
CAPABILITIES = ("", "dac_read_search", "dac_override")
"""Tried in order: none; the narrowest that passes through a closed folder; the one that containers have."""
TRIAL_TIMEOUT_S = 10.0


def dying_with_parent(death_signal: signal.Signals) -> tuple[str, ...]:
    """Give the command prefix that makes the kernel send `death_signal` when the starting THREAD ends.

    Start such a child from a thread that lives as long as the child may. Empty where there is no setpriv
    (macOS): there the next start finds and stops what a killed one left behind.
    """
    setpriv = shutil.which("setpriv")
    return (setpriv, f"--pdeathsig={death_signal.name.removeprefix('SIG')}", "--") if setpriv else ()


def unprivileged_user(folder: Path) -> pwd.struct_passwd | None:
    """Say as whom PostgreSQL runs when we are root: as the folder's owner, else as its usual user or nobody.

    None when we are not root: then it runs as ourselves.
    """
    if os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for name in UNPRIVILEGED_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and this machine has neither a user 'postgres' nor 'nobody'; "
        "run penstock as an ordinary user."
    )


def dropping_root(user: pwd.struct_passwd, *, program: Path, folder: Path) -> tuple[str, ...]:
    """Give the command prefix that runs `program` as `user`, able to reach itself and `folder`.

    Either may lie under somebody's closed home (0700 /root). We never open a parent folder for that: the
    child gets the one capability that walks through, and only where it does not work without.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedError("Running as root needs setpriv (package util-linux); or run as an ordinary user.")
    identity = (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    for capability in CAPABILITIES:
        prefix = (*identity, *_granting(capability))
        if _works(prefix, [str(program), "--version"]) and _works(prefix, ["stat", f"{folder}/."]):
            return prefix
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, and the user {user.pw_name!r} can reach {program} or {folder} by no "
        "means that this machine allows; choose a data folder that others may pass through, or run penstock "
        "as an ordinary user."
    )


def _granting(capability: str) -> tuple[str, ...]:
    """Without no_setuid_fixup, access(2) forgets the capability, and initdb asks access(2) for its binaries."""
    if not capability:
        return ("--inh-caps=-all",)
    grant = f"-all,+{capability}"
    return (f"--inh-caps={grant}", f"--ambient-caps={grant}", "--securebits=+no_setuid_fixup")


def _works(prefix: Sequence[str], command: Sequence[str]) -> bool:
    """Try it through env: what setpriv itself starts still profits from root's capabilities on the way in."""
    tried = [*prefix, "--", "env", *command]
    done = subprocess.run(tried, capture_output=True, timeout=TRIAL_TIMEOUT_S, check=False, cwd="/")
    return done.returncode == 0
