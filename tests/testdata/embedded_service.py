"""The smallest service: healthy on PENSTOCK_PORT, and at SIGTERM it notes its name in <spool>/stopped and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc

name = sys.argv[1]
stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())
server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
server.add_insecure_port(f"127.0.0.1:{os.environ['PENSTOCK_PORT']}")
server.start()
if "--with-child" in sys.argv:
    subprocess.Popen(["sleep", "1000"])
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(f"{name} serves", flush=True)
stopping.wait()
with (Path(os.environ["PENSTOCK_SPOOL_DIR"]) / "stopped").open("a") as stopped:
    stopped.write(f"{name}\n")
server.stop(1).wait()
