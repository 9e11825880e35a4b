"""`penstock up` in miniature: the suite on the folder of argv[1], its services the smallest there are."""

from __future__ import annotations

import sys
from pathlib import Path

from penstock.cli.embedded.errors import EmbeddedError, StopRequestedError
from penstock.cli.embedded.ports import Ports
from penstock.cli.embedded.suite import SERVICES, Suite

service = str(Path(__file__).with_name("embedded_service.py"))
commands = {name: (sys.executable, service, name) for name in SERVICES}
suite = Suite(Path(sys.argv[1]), ports=Ports.auto(), commands=commands)
with suite.stopping_on_signals():
    try:
        suite.start()
        suite.wait()
    except StopRequestedError:
        pass
    except EmbeddedError as error:
        sys.exit(str(error))
    finally:
        suite.stop()
