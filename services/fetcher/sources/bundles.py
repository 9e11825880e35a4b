"""What a repository's files are, by their names alone: which framework, which forms of it, and what belongs to each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from services.common.errors import InvalidArgument
from services.fetcher.faults import FileTooLarge, ModelNotFound, UnsupportedFramework
from services.fetcher.sources.source import MAX_FILES

DEFAULT: Final = "default"
TOKENIZER, CONFIG = "tokenizer.json", "config.json"
SHARED: Final = (TOKENIZER, CONFIG, "tokenizer_config.json", "special_tokens_map.json")
"""Of a Transformers bundle, in its folder, besides its graph: tokenizer.json has the vocabulary in it."""
SENTENCE: Final = ("sentence_bert_config.json", "config_sentence_transformers.json", "modules.json")
"""Of sentence-transformers, besides the pooling: in the bundle's folder, or in the nearest above it that has some."""
_POOLING: Final = re.compile(r"[0-9]+_Pooling/config\.json")
# What onnx, torch.onnx and optimum call the files that keep a graph's tensors.
_DATA: Final = re.compile(r"[._-]?(onnx_)?(data|weights)([._-]?[0-9]{1,6}){0,2}", re.IGNORECASE)
_TENSOR: Final = re.compile(
    r"onnx__.+|.+[._-](weights?|bias|data|gamma|beta|scale)([._-]?[0-9]{1,6}){0,2}|weights?\.(bin|pb|dat|raw)",
    re.IGNORECASE,
)
# What says by its end what it is: of position_ids and other tensors' names none has such a one.
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,8}")
# By their names, or by what they end with, these are surely no graph's external data.
_OTHER: Final = re.compile(
    r".*\.(onnx|json|jsonl|txt|md|rst|pdf|html|csv|tsv|yaml|yml|toml|cfg|ini|jinja|py|ipynb|sh|js|log|lock|model|spm"
    r"|vocab|safetensors|h5|keras|msgpack|ot|gguf|ggml|pt|pth|ckpt|pkl|pickle|joblib|tflite|ort|xml|mlmodel|engine|npz"
    r"|npy|parquet|png|jpe?g|gif|svg|webp|bmp|mp[34]|wav|flac|zip|gz|tar|tgz)"
    r"|\..*|(readme|licen[cs]e|notice|copying|copyright|authors|changelog|citation|makefile|dockerfile)([._-].*)?"
    r"|(pytorch|tf|flax|openvino|adapter|consolidated|diffusion).*\.bin"
    r"|(training_args|optimizer|scheduler|rng_state|saved_model|keras_metadata|fingerprint).*",
    re.IGNORECASE,
)
_SAVED_MODEL: Final = re.compile(r"(saved_model|fingerprint|keras_metadata)\.pb|(variables|assets|assets\.extra)/.+")
# transformers.js names dtypes; of these two the files are called otherwise.
_ALIASES: Final = {"q8": "quantized", "fp32": DEFAULT, "quantized": "q8"}
_PRECISIONS: Final = {
    "fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "quantized": "int8", "bnb4": "bnb4",
}  # fmt: skip
_BITS: Final = re.compile(r"(?:q|q?u?int)([1-8])(?:f16)?")
_MOST_SHOWN: Final = 12
MAX_GRAPHS: Final = 100
"""In one folder."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a model.

    Attributes:
        name: such as quantized.
        paths: in the repository, of all that is fetched of it.
        main: the one of them that is opened, such as the graph.
        precision: of the weights, where its name says so.
    """

    name: str
    paths: tuple[str, ...]
    main: str
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder of a repository has.

    Attributes:
        framework: a name of the registry's Framework without its prefix.
        root: the folder that becomes the version's own; '' for the repository's top.
        forms: the default first, where there is one.
        has_default: whether there is; else one must be named.
        warnings: sentences on what is there and not fetched.
    """

    framework: str
    root: str
    forms: tuple[Form, ...]
    has_default: bool = True
    warnings: tuple[str, ...] = ()

    def form(self, name: str) -> Form:
        """Find a form by its name, '' the default.

        Raises:
            InvalidArgument: there is none of this name, or none is the default (UNKNOWN_VARIANT).
            UnsupportedFramework: only all of them together are the model.
        """
        by_name = {form.name: form for form in self.forms}
        found = by_name.get(name) or by_name.get(_ALIASES.get(name, ""))
        if not name and self.has_default:
            return self.forms[0]
        if found is not None:
            return found
        if not name and any("decoder" in each for each in by_name):
            raise UnsupportedFramework(
                f"an encoder and a decoder in graphs of their own ({shown(by_name)}) make a text in turns, which is "
                "not served; Ollama serves such models (penstock model register NAME --ollama); one graph alone is "
                "fetched by its name (--variant)"
            )
        said = f"there is no {name!r}" if name else "there are several, and none of them is the model's own"
        sentence = f"{said}; name one of: {shown(by_name)}"
        raise InvalidArgument.field("source.variant", sentence, reason="UNKNOWN_VARIANT")


def laid_out(paths: Collection[str], folder: str, repository: str) -> Layout:
    """Find the model in a folder of a repository ('': all of it).

    Raises:
        ModelNotFound: there is no such folder, or nothing in it.
        UnsupportedFramework: no runtime serves what is there, or it is not one model; says what to do.
    """
    inside = sorted(path for path in paths if not folder or path.startswith(f"{folder}/"))
    if not inside:
        raise ModelNotFound(f"{repository} has no file in {folder}" if folder else f"{repository} is empty")
    by_suffix = {suffix: [path for path in inside if path.lower().endswith(suffix)] for suffix in (".onnx", ".keras")}
    if by_suffix[".onnx"]:
        return _onnx(paths, by_suffix[".onnx"], folder, repository)
    saved = [_parent(path) for path in inside if PurePosixPath(path).name == "saved_model.pb"]
    if saved:
        return _saved_model(inside, saved, folder, repository)
    if by_suffix[".keras"]:
        root = _only_folder(by_suffix[".keras"], (folder,), repository)
        archives = [path for path in by_suffix[".keras"] if _parent(path) == root]
        forms = [Form(name, (path,), path, _precision(name)) for name, path in _named(archives).items()]
        return _with_default("TENSORFLOW", root, forms)
    raise _unsupported(inside, repository)


def shown(names: Iterable[str]) -> str:
    """List the first few names."""
    listed = list(names)
    more = f" and {len(listed) - _MOST_SHOWN:,} more" if len(listed) > _MOST_SHOWN else ""
    return ", ".join(listed[:_MOST_SHOWN]) + more


def _onnx(paths: Collection[str], graphs: Sequence[str], folder: str, repository: str) -> Layout:
    beside = _in(folder, "onnx")
    on_top = _in(folder, "model.onnx") in graphs and _in(beside, "model.onnx") not in graphs
    place = _only_folder(graphs, (folder, beside) if on_top else (beside, folder), repository)
    here = [path for path in graphs if _parent(path) == place]
    if len(here) > MAX_GRAPHS:
        raise FileTooLarge(f"{repository} has more than {MAX_GRAPHS} graphs in one folder")
    warnings = []
    if len(here) < len(graphs):
        warnings.append(f"only the graphs in {place or 'its top folder'} are looked at; name another folder for others")
    known = set(paths)
    root = next((each for each in upwards(place) if {_in(each, TOKENIZER), _in(each, CONFIG)} <= known), None)
    shared: list[str] = []
    if root is not None:
        shared = [path for name in SHARED if (path := _in(root, name)) in known]
        shared += _sentence(paths, root)
    elif any(_in(each, "tokenizer_config.json") in known for each in upwards(place)):
        warnings.append(
            f"it has no {TOKENIZER} and {CONFIG}: it becomes a plain graph that takes numbers, and no text; save it "
            "with a fast tokenizer for a bundle"
        )
    named = _named(here)
    data, left_out = _data(here, [path for path in paths if _parent(path) == place], one_model=_is_one(here))
    if left_out:
        warnings.append(
            f"{shown(left_out)} beside the graphs cannot be told from external data, and is not fetched: a graph that "
            "keeps its tensors there cannot be served"
        )
    full = "fp32" if any(map(_precision, named)) else ""
    forms = [
        Form(name, (graph, *data[graph], *shared), graph, full if name == DEFAULT else _precision(name))
        for name, graph in named.items()
    ]
    return _with_default("ONNX" if root is None else "TRANSFORMERS", place if root is None else root, forms, warnings)


def _sentence(paths: Collection[str], root: str) -> list[str]:
    """Find what sentence-transformers saved of a bundle: exports keep the tokenizer in onnx/, and this above it."""
    for folder in upwards(root):
        names = {path for path in paths if not folder or path.startswith(f"{folder}/")}
        pooling = sorted(path for path in names if _POOLING.fullmatch(_inner(path, folder)))
        found = [path for name in SENTENCE if (path := _in(folder, name)) in names] + pooling
        if found:
            return found
    return []


def _data(
    graphs: Sequence[str], beside: Sequence[str], *, one_model: bool
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Give to each graph the files that keep its tensors: those called after it, and those that are no other's.

    An exporter may call them anything, such as Constant_7_attr__value. What is of no known kind is taken for tensors
    where its name has no suffix that tells and all graphs are one model's; else it is given as what is left out.
    """
    owned: dict[str, list[str]] = {graph: [] for graph in graphs}
    left_out: list[str] = []
    data: list[str] = []
    names = {PurePosixPath(path).name for path in beside}
    own = {path: owners for path in beside if (owners := _owners(path, graphs))}
    for path in sorted(beside):
        name = PurePosixPath(path).name
        if path in own or _TENSOR.fullmatch(name):
            data.append(path)
        elif not _is_other(name, names):
            suffix = PurePosixPath(name).suffix
            (data if one_model and not _SUFFIX.fullmatch(suffix) else left_out).append(path)
    if len(data) > 10 * MAX_FILES:
        raise FileTooLarge(f"there are more than {10 * MAX_FILES:,} files beside the graphs")
    for path in data:
        for graph in own.get(path) or graphs:
            owned[graph].append(path)
    return {graph: tuple(paths) for graph, paths in owned.items()}, left_out


def _is_other(name: str, names: Collection[str]) -> bool:
    """Say whether a file is of a kind that is known, and no graph's tensors."""
    openvino = name.endswith(".bin") and f"{name[:-4]}.xml" in names
    return openvino or _OTHER.fullmatch(name) is not None


def _is_one(graphs: Sequence[str]) -> bool:
    """Say whether graphs are forms of one model: the shortest name, or its first word, begins all of them."""
    stems = sorted((PurePosixPath(path).stem for path in graphs), key=len)
    bases = (stems[0], re.split(r"[_.-]", stems[0])[0])
    return len(stems) == 1 or any(all(_added(stem, base) is not None for stem in stems) for base in bases)


def _owners(path: str, graphs: Sequence[str]) -> list[str]:
    """Give the graphs that a file is called after: as model.onnx_data, model.onnx.data, model.data or model.bin is."""
    stem, _, suffix = path.rpartition(".")
    if suffix in ("bin", "pb"):
        return [graph for graph in graphs if graph[:-5] == stem]
    if not path.startswith(tuple(graph[:-5] for graph in graphs)):
        return []
    return [
        graph
        for graph in graphs
        if any(
            path.startswith(begin) and _DATA.fullmatch(path.removeprefix(begin)) for begin in (graph, f"{graph[:-5]}.")
        )
    ]


def _saved_model(inside: Sequence[str], saved: Sequence[str], folder: str, repository: str) -> Layout:
    if folder not in saved and len(saved) > 1:
        raise UnsupportedFramework(
            f"{repository} has several SavedModels: name the folder of one, as {repository}/{saved[0]}"
            f" (there are {shown(saved)})"
        )
    root = folder if folder in saved else saved[0]
    paths = tuple(path for path in inside if _SAVED_MODEL.fullmatch(_inner(path, root)))
    return Layout("TENSORFLOW", root, (Form(DEFAULT, paths, _in(root, "saved_model.pb")),))


def _with_default(framework: str, root: str, forms: Sequence[Form], warnings: Sequence[str] = ()) -> Layout:
    """Put the default first: what bears no variant's name, or is called fp32, or is the only one."""
    first = next((form for name in (DEFAULT, "fp32") for form in forms if form.name == name), None)
    first = first or (forms[0] if len(forms) == 1 else None)
    rest = tuple(sorted((form for form in forms if form is not first), key=lambda form: form.name))
    return Layout(framework, root, rest if first is None else (first, *rest), first is not None, tuple(warnings))


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Name forms by what their files' names add to that of the model's own, which is `default`."""
    stems = {PurePosixPath(path).stem: path for path in sorted(paths)}
    own = next(
        (
            stem
            for stem in ("model", *sorted(stems, key=len))
            if (stem in stems and all(_added(each, stem) is not None for each in stems))
            or (stem == "model" and any(_added(each, stem) is not None for each in stems))
        ),
        None,
    )
    if own is None:
        return {DEFAULT: paths[0]} if len(paths) == 1 else stems
    named = {DEFAULT: stems[own]} if own in stems else {}
    for stem, path in stems.items():
        if stem != own:
            name = _added(stem, own) or stem
            # Nobody else is the default, and of two that would be called the same the second goes by its whole name.
            named[stem if name in named or name == DEFAULT else name] = path
    return named


def _added(stem: str, own: str) -> str | None:
    """Give what a stem adds to the model's own, '' for that itself; None: it is of another."""
    if stem == own:
        return ""
    rest = stem.removeprefix(own)
    return rest[1:] if rest != stem and rest[:1] in ("_", "-", ".") and rest[1:] else None


def _precision(name: str) -> str:
    for word in re.split(r"[_.-]", name):
        found = _BITS.fullmatch(word)
        if word in _PRECISIONS or found:
            return f"int{found[1]}" if found else _PRECISIONS[word]
    return ""


def _only_folder(paths: Sequence[str], preferred: Iterable[str], repository: str) -> str:
    """Choose the folder whose files are the model: one preferred, else the only one."""
    folders = sorted({_parent(path) for path in paths})
    for folder in preferred:
        if folder in folders:
            return folder
    if len(folders) > 1:
        raise UnsupportedFramework(
            f"{repository} has models in several folders: name one, as {repository}/{folders[0]} (there are "
            f"{shown(folders)})"
        )
    return folders[0]


def _unsupported(inside: Sequence[str], repository: str) -> UnsupportedFramework:
    suffixes = {PurePosixPath(path).suffix.lower() for path in inside}
    export = f"export it (optimum-cli export onnx --model {repository} FOLDER; penstock model register NAME FOLDER)"
    said: Mapping[str, str] = {
        ".gguf": "GGUF files, which Ollama serves: ollama pull hf.co/"
        f"{repository}, and penstock model register NAME --ollama hf.co/{repository} --mode chat",
        ".safetensors": "safetensors, weights without a graph to run them in: fetch an ONNX export of it, such as "
        f"onnx-community has of many, or {export}",
    }
    for suffix, sentence in said.items():
        if suffix in suffixes:
            return UnsupportedFramework(f"{repository} has {sentence}")
    if any(PurePosixPath(path).name == "model.json" for path in inside):
        return UnsupportedFramework(
            f"{repository} has TensorFlow.js, which is not served: fetch the SavedModel or .keras file that it was "
            "converted from, or an ONNX export of it"
        )
    if suffixes & {".bin", ".pt", ".pth", ".ckpt", ".pkl"}:
        return UnsupportedFramework(
            f"{repository} has PyTorch files, which run code when they are opened: fetch an ONNX export of it, such as "
            f"onnx-community has of many, or {export}"
        )
    names = shown(PurePosixPath(path).name for path in inside)
    return UnsupportedFramework(
        f"no runtime is known to serve {names}: a Transformers bundle (tokenizer.json and .onnx), ONNX (.onnx), a "
        "SavedModel (saved_model.pb) and .keras are served"
    )


def upwards(folder: str) -> list[str]:
    """Give a folder and all that it lies in, up to the top."""
    parents = PurePosixPath(folder).parents if folder else ()
    return [folder, *("" if str(each) == "." else str(each) for each in parents)]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _inner(path: str, folder: str) -> str:
    """Give a path as a folder has it; unchanged where it lies elsewhere."""
    return path.removeprefix(f"{folder}/") if folder else path


def within(path: str, root: str) -> str:
    """Give a path as the version has it: what lies above the root lies there as it does in its own folder."""
    return next(_inner(path, folder) for folder in upwards(root) if not folder or path.startswith(f"{folder}/"))
