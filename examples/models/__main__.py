"""Build the files that the suites of examples/suites name: `python -m examples.models examples/suites/models`.

`--set NAME` builds those of one suite. `iris` needs what `make demo` installs, `minilm` what `make minilm` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from examples.models import networks, small

Build = Callable[[], Mapping[str, bytes]]
"""Makes a model's files: bytes by their names in the folder."""


def one(name: str, make: Callable[[], bytes]) -> Build:
    return lambda: {name: make()}


def iris(version: str, *, regularisation: float) -> Build:
    return one(f"iris-{version}.onnx", lambda: _iris(regularisation))


def _iris(regularisation: float) -> bytes:
    from onnx import ModelProto

    from examples.iris import train  # scikit-learn is only needed for this one

    model = ModelProto.FromString(train(regularisation=regularisation).onnx)
    model.graph.name = "iris"  # the exporter draws a name by lot
    return model.SerializeToString(deterministic=True)


def minilm() -> Mapping[str, bytes]:
    from examples.minilm.graph import build
    from examples.minilm.weights import BertConfig, find_folder, read_safetensors

    folder = find_folder()
    config, weights = BertConfig.read(folder / "config.json"), read_safetensors(folder / "model.safetensors")
    return {"minilm-1.0.0.onnx": build(config, weights)}


FIRST_IRIS, SECOND_IRIS = iris("1.0.0", regularisation=1), iris("2.0.0", regularisation=10)
SETS: Mapping[str, tuple[Build, ...]] = {
    "minimal": (FIRST_IRIS,),
    "testing": (
        FIRST_IRIS,
        SECOND_IRIS,
        one("identity-1.0.0.onnx", small.identity),
        one("add-1.0.0.onnx", small.add),
        one("greet-1.0.0.onnx", small.greet),
        one("two-by-two-1.0.0.onnx", small.two_by_two),
        one("centred-1.0.0.onnx", small.centred),
        small.external,
    ),
    "benchmarking": (
        FIRST_IRIS,
        one("mlp-1.0.0.onnx", networks.mlp),
        one("resnet18-1.0.0.onnx", networks.resnet18),
    ),
    "minilm": (minilm,),
}


def build_set(name: str, folder: Path) -> list[Path]:
    """Write every file of a set; gives their paths."""
    written = []
    for build in SETS[name]:
        for path, content in build().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            written.append(folder / path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.models", description=__doc__)
    parser.add_argument("folder", type=Path, help="the suites look into examples/suites/models")
    parser.add_argument("--set", action="append", choices=SETS, dest="sets", help="default: all but minilm")
    options = parser.parse_args()
    for name in options.sets or ("minimal", "testing", "benchmarking"):
        try:
            for path in build_set(name, options.folder):
                print(f"{path}: {path.stat().st_size:,} bytes")
        except ModuleNotFoundError as error:
            needed = "make minilm" if name == "minilm" else "make demo"
            raise SystemExit(f"{name}: the package {error.name} is missing; `{needed}` installs it") from None


if __name__ == "__main__":
    main()
