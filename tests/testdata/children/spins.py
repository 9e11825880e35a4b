"""Uses processor time under the sandbox's limits until it is stopped."""

from __future__ import annotations

import json
import sys

from services.common.children.sandbox import SandboxLimits, enter

enter(SandboxLimits(memory_limit_bytes=2**30, cpu_limit_s=1), json.loads(sys.argv[1])["parent_pid"])
while True:
    pass
