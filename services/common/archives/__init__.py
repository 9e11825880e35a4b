"""Archives of others' making: what they hold, entry by entry, as bytes that flow. Nothing is written anywhere.

Whatever a stranger may put into one, reading it ends in its entries or in one of the refusals of `limits`: memory is
constant, work is bounded by the limits on entries and bytes, and the bytes are counted as they come out, whatever the
headers say of them.
"""

from __future__ import annotations

from services.common.archives.archive import entries
from services.common.archives.entry import Entry, without_top_folder
from services.common.archives.limits import MAX_ENTRIES, ArchiveLimits

__all__ = ["MAX_ENTRIES", "ArchiveLimits", "Entry", "entries", "without_top_folder"]
