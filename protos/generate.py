"""Generate the stubs: `penstock.*` into the SDK, the Open Inference Protocol's into the inference service.

`--check` generates into a temporary folder instead and fails when the committed stubs differ.
"""

from __future__ import annotations

import argparse
import filecmp
import re
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
# Where the stubs of each top-level folder of protos/ live; the folder is the import path.
HOMES = {"penstock": ROOT / "sdk/python/src", "services": ROOT}
STUBS = re.compile(r"_pb2(_grpc)?\.pyi?$")


def generate(top: str, out: Path) -> None:
    """Write the stubs of protos/<top> below `out`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / top).rglob("*.proto"))
    plugins = [
        f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")]
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{WELL_KNOWN}", *plugins, *outputs, *sources]) != 0:
        sys.exit("protoc failed")


def stubs_of(home: Path, top: str) -> set[Path]:
    """List the stubs below home/<top>, relative to home."""
    return {path.relative_to(home) for path in (home / top).rglob("*_pb2*") if STUBS.search(path.name)}


def main() -> None:
    """Generate, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the committed stubs differ")
    check = parser.parse_args().check
    for top, home in HOMES.items():
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder)
            generate(top, fresh)
            wanted = stubs_of(fresh, top)
            stale = {
                path
                for path in wanted | stubs_of(home, top)
                if path not in wanted
                or not (home / path).exists()
                or not filecmp.cmp(fresh / path, home / path, shallow=False)
            }
            if check and stale:
                sys.exit("run `make protos`: " + ", ".join(sorted(map(str, stale))))
            for path in stale:
                if path in wanted:
                    (home / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(fresh / path, home / path)
                else:
                    (home / path).unlink()


if __name__ == "__main__":
    main()
