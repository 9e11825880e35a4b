"""`python -m examples.minilm`, beside a running `penstock up`: build, register, promote and ask, in one go.

`make minilm` installs what it needs and runs it. A second run asks the version that is there already.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import penstock
from examples.minilm.graph import OUTPUT, build
from examples.minilm.sentences import FIRST, PUBLISHED, SECOND, SentenceTokenizer, similarities
from examples.minilm.weights import BertConfig, find_folder, read_safetensors
from penstock.api.registry.v1.registry_pb2 import STAGE_DEVELOPMENT, STAGE_STAGING, ModelVersion

MODEL, VERSION = "minilm", "1.0.0"
BUNDLE, BUNDLED = "minilm-bundle", ("tokenizer.json", "config.json", "tokenizer_config.json")
"""The graph with what makes its inputs of a text: one version of four files, for who embeds sentences elsewhere."""
TOLERANCE = 1e-3
"""The published numbers are rounded to four digits and come from another machine's kernels."""
READY_WITHIN_S = 60.0
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.minilm", description=__doc__)
    parser.add_argument("--output", type=Path, help="only build the ONNX file, here")
    options = parser.parse_args()
    folder = find_folder()
    if options.output:
        write_model(folder, options.output)
        return
    with penstock.Client() as client:
        run(client, folder)


def write_model(folder: Path, path: Path) -> None:
    """Build the ONNX file from the package's folder."""
    config, weights = BertConfig.read(folder / "config.json"), read_safetensors(folder / "model.safetensors")
    path.write_bytes(build(config, weights))
    console.print(f"[cyan]▸[/] {path.name}: {path.stat().st_size:,} bytes, from the weights alone")


def run(client: penstock.Client, folder: Path) -> None:
    """Register the model where it is missing, ask it for the pairs, and show how it compares with what is published."""
    version = find_version(client) or register(client, folder)
    console.print(f"[cyan]▸[/] {MODEL} {version.version}, rows independent: {version.validation.rows_independent}")
    promote(client, version)
    found = ask(client, SentenceTokenizer(folder))
    console.print(as_table(found))
    apart = float(np.abs(found - np.array(PUBLISHED)).max())
    if apart > TOLERANCE:
        raise SystemExit(f"the similarities are up to {apart:.4f} from the published ones")
    console.print(f"[green]✓[/] equal to the published similarities, {apart:.5f} apart at most")


def find_version(client: penstock.Client, model: str = MODEL) -> ModelVersion | None:
    try:
        return client.registry.get_version(model, VERSION)
    except penstock.NotFound:
        return None


def register(client: penstock.Client, folder: Path) -> ModelVersion:
    """Upload the file, and a bundle of it with its tokenizer; wait for the validator each time."""
    with TemporaryDirectory(prefix="penstock-minilm-") as name:
        bundle = Path(name)
        graph = bundle / "model.onnx"
        write_model(folder, graph)
        version = timed_register(client, MODEL, graph, "onnx")
        for file in BUNDLED:
            copy(folder / file, bundle)
        if find_version(client, BUNDLE) is None:
            timed_register(client, BUNDLE, bundle, "transformers")
    return version


def timed_register(client: penstock.Client, model: str, source: Path, framework: str) -> ModelVersion:
    began = time.monotonic()
    stage = STAGE_STAGING if model == MODEL else STAGE_DEVELOPMENT
    version = client.registry.register_version(
        model, VERSION, source, framework=framework, stage=stage, source_version="all-MiniLM-L6-v2"
    )
    seconds = time.monotonic() - began
    console.print(f"[cyan]▸[/] {model} {VERSION}: {len(version.files)} files, READY in {seconds:.1f} s")
    return version


def promote(client: penstock.Client, version: ModelVersion) -> None:
    """Put the version into production, unless somebody moved it since."""
    if version.stage == STAGE_STAGING:
        client.registry.promote(MODEL, version.version, approved_by="the example", note="it is the example's own")


def ask(client: penstock.Client, tokenizer: SentenceTokenizer) -> NDArray[np.float32]:
    """Embed all six sentences in one request; gives the similarities of the first three with the others."""
    tensors = tokenizer.tensors(FIRST + SECOND)
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            embeddings = client.inference.predict(MODEL, tensors=tensors, version=VERSION, user_id="ada").outputs[
                OUTPUT
            ]
            return similarities(embeddings[: len(FIRST)], embeddings[len(FIRST) :])
        except penstock.NotFound:  # inference hears of a new version a moment later
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def as_table(found: NDArray[np.float32]) -> Table:
    """Lay the similarities out, the nearest of each row in bold, with the published ones beside them."""
    table = Table("", *SECOND, title="cosine similarity (published)")
    for sentence, row, published in zip(FIRST, found, PUBLISHED, strict=True):
        cells = [f"{value:.4f} ({known:.4f})" for value, known in zip(row, published, strict=True)]
        cells[int(row.argmax())] = f"[bold]{cells[int(row.argmax())]}[/]"
        table.add_row(sentence, *cells)
    return table


if __name__ == "__main__":
    main()
