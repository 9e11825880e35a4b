"""What a child that reads one file of a stranger tells its parent of it, beside its answer; `readers` hears it.

It brings nothing with it, for a child that starts for each file.
"""

from __future__ import annotations

import json

REFUSED = 3
"""The exit code of a reader that refuses the file; the last line of stderr is what `complaint` gives."""
OUT_OF_MEMORY = 4
"""That of one for which the memory that it may take was not enough."""
NO_SECCOMP = "this kernel gives no seccomp: the file is read within limits on memory and time alone"
"""What a reader writes to stderr that is not confined."""


def complaint(reason: str, sentence: str, place: str) -> str:
    """Give the line that a reader refuses a file with."""
    return f"\n{json.dumps([reason, sentence, place])}\n"
