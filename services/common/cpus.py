"""How many processors this process may really use: its container's quota and its affinity, not the node's."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def cpu_count(cgroup_root: Path = CGROUP_ROOT) -> int:
    """Count the processors: the affinity mask, and no more than the quota rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = find_quota(cgroup_root)
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def find_quota(cgroup_root: Path = CGROUP_ROOT) -> float | None:
    """Read the CPU quota of cgroup v2 or v1, in processors; None where there is none.

    Inside a container the mount's own root is the container's group, so no path needs to be looked up.
    """
    limit = _read(cgroup_root / "cpu.max").split()
    if len(limit) != 2:
        limit = [_read(cgroup_root / "cpu" / f"cpu.cfs_{part}_us") for part in ("quota", "period")]
    try:
        quota, period = int(limit[0]), int(limit[1])
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
