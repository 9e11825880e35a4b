"""ONNX Runtime without any server: rows a second by the size of the batch.

`python -m benchmarks.contenders.in_process MODEL.onnx INPUTS.npz THREADS SECONDS` writes a JSON object on stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, which would report to its makers over the network

import onnxruntime

BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Measure each batch size for a while, after a run to warm up."""
    model, inputs, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(inputs) as arrays:
        row = {name: arrays[name] for name in arrays.files}
    rates = {}
    for size in BATCH_SIZES:
        batch = {name: np.repeat(array, size, axis=0) for name, array in row.items()}
        session.run(None, batch)
        runs, began = 0, time.perf_counter()
        while (taken_s := time.perf_counter() - began) < seconds / len(BATCH_SIZES) or runs < 2:
            session.run(None, batch)
            runs += 1
        rates[size] = runs * size / taken_s
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
