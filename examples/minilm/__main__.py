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
from examples.minilm.graph import build
from examples.minilm.sentences import FIRST, PUBLISHED, SECOND, similarities
from examples.minilm.weights import BertConfig, find_folder, read_safetensors
from penstock.api.registry.v1.registry_pb2 import STAGE_STAGING, Metadata, ModelVersion

MODEL, VERSION = "minilm", "2.0.0"  # 1.0.0 was the graph alone, which knew no texts
BUNDLED = ("tokenizer.json", "config.json", "tokenizer_config.json", "sentence_bert_config.json")
"""What makes the graph's inputs of a text, and says how much of one the model reads."""
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
    found = ask(client)
    console.print(as_table(found))
    apart = float(np.abs(found - np.array(PUBLISHED)).max())
    if apart > TOLERANCE:
        raise SystemExit(f"the similarities are up to {apart:.4f} from the published ones")
    console.print(f"[green]✓[/] equal to the published similarities, {apart:.5f} apart at most")
    console.print(f'[cyan]▸[/] your own texts: penstock embed {MODEL} "{FIRST[1]}" "{SECOND[0]}"')


def find_version(client: penstock.Client) -> ModelVersion | None:
    try:
        return client.registry.get_version(MODEL, VERSION)
    except penstock.NotFound:
        return None


def register(client: penstock.Client, folder: Path) -> ModelVersion:
    """Upload the graph with its tokenizer as one version, and wait for the validator."""
    with TemporaryDirectory(prefix="penstock-minilm-") as name:
        bundle = Path(name)
        write_model(folder, bundle / "model.onnx")
        for file in BUNDLED:
            copy(folder / file, bundle)
        began = time.monotonic()
        version = client.registry.register_version(
            MODEL,
            VERSION,
            bundle,
            framework="transformers",
            stage=STAGE_STAGING,
            source_version="all-MiniLM-L6-v2",
            metadata=Metadata(task_type="sentence-similarity", output_dimensions=384),
        )
    seconds = time.monotonic() - began
    console.print(f"[cyan]▸[/] {MODEL} {VERSION}: {len(version.files)} files, READY in {seconds:.1f} s")
    return version


def promote(client: penstock.Client, version: ModelVersion) -> None:
    """Put the version into production, unless somebody moved it since."""
    if version.stage == STAGE_STAGING:
        client.registry.promote(MODEL, version.version, approved_by="the example", note="it is the example's own")


def ask(client: penstock.Client) -> NDArray[np.float32]:
    """Embed all six sentences in one request; gives the similarities of the first three with the others."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            vectors = client.inference.embed(MODEL, FIRST + SECOND, version=VERSION, user_id="ada").vectors
            return similarities(vectors[: len(FIRST)], vectors[len(FIRST) :])
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
