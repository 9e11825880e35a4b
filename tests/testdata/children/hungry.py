"""A child of apprise's that takes a gibibyte and then answers as if all were well."""

from __future__ import annotations

import sys

from services.monitoring.notifications.apprise_child import limit_resources

if __name__ == "__main__":
    limit_resources()
    taken = bytearray(2**30)
    sys.stdout.write('{"reason": "", "problem": "", "delivered": true, "status": "", "refused": ""}')
