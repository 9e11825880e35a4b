"""What a model's card and its small JSON files say of it, as the registry's metadata. All of it is a stranger's word:
each value is taken only if it is of its type, short, and shows nothing but itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from services.common.text_tasks import CLS, KNOWN_MODULES, MEAN, POOLINGS, TASK_TYPES, Task, find_named

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

MAX_TAGS: Final = 64
MAX_TAG_BYTES: Final = 64
MAX_WORD_BYTES: Final = 128
MAX_WORDS: Final = 16
MAX_COUNT: Final = 2**20
"""Of dimensions, of tokens: more is a way to say that there is no bound."""
_GENERATING: Final = frozenset(
    {
        "text-generation", "text2text-generation", "conversational", "image-text-to-text", "any-to-any", "translation",
        "summarization", "automatic-speech-recognition", "image-to-text", "video-text-to-text", "audio-text-to-text",
    }
)  # fmt: skip
"""Tasks of models that make a text token by token, as the Hub names them."""
_GENERATORS: Final = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
"""How the classes of such models are called."""
_WIDTHS: Final = ("hidden_size", "dim", "d_model", "n_embd")
"""What architectures call the length of a token's vector, BERT's first."""
_NON_COMMERCIAL: Final = re.compile(r"(^|[-_ ])(nc|non-?commercial)([-_ ]|$)")
_CONDITIONS: Final = (
    "llama", "gemma", "openrail", "bigscience", "creativeml", "bigcode", "deepfloyd", "apple", "other", "unknown",
    "c-uda", "intel-research", "agpl", "gpl", "lgpl", "cc-by-nd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Texts:
    """A model's small files, as read; what is missing is empty."""

    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    sentence_config: Mapping[str, Any] = field(default_factory=dict)
    pooling_config: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a model: the registry's Metadata as JSON, its licence, and what should be known before."""

    metadata: dict[str, Any]
    licence: str
    warnings: tuple[str, ...]


def document(content: bytes) -> Mapping[str, Any] | list[Any] | None:
    """Read JSON; None where it is none, or no object or list."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def modules_of(found: Iterable[Any]) -> tuple[str, ...]:
    """Name the modules of sentence-transformers' modules.json by their classes alone."""
    return tuple(
        _word(each.get("type")).rpartition(".")[2] for each in list(found)[:MAX_WORDS] if isinstance(each, dict)
    )


def card_of(info: ModelInfo, texts: Texts, *, framework: str, page: str) -> Card:
    """Gather what is known. `framework` without its prefix; `page`: where people read the card."""
    licence, about_licence = _licence(info, page)
    task, about_task = _task(info, framework)
    embeds = find_named(task) is Task.EMBEDDING
    pooling, about_pooling = _pooling(texts) if framework == "TRANSFORMERS" and embeds else ({}, ())
    card = info.card_data
    fields = {
        "licence": licence,
        "pipeline_tag": _word(info.pipeline_tag),
        "library": _word(info.library_name),
        "architectures": _words(texts.config.get("architectures")),
        "label_count": len(labels) if isinstance(labels := texts.config.get("id2label"), dict) else 0,
        "max_tokens": _smallest(
            texts.config.get("max_position_embeddings"),
            texts.tokenizer_config.get("model_max_length"),
            texts.sentence_config.get("max_seq_length"),
        ),
        "languages": _words(card.get("language")) if card else [],
        "base_models": _words(card.get("base_model")) if card else [],
        "datasets": _words(card.get("datasets")) if card else [],
        **pooling,
    }
    metadata: dict[str, Any] = {
        "task_type": task,
        "output_dimensions": _dimensions(texts) if embeds else 0,
        "tags": _tags(info),
        # Of numbers that are 0 and words that are '' nothing is known; what is False was said.
        "fields": {name: value for name, value in fields.items() if value or value is False},
    }
    kept = {name: value for name, value in metadata.items() if value}
    return Card(kept, licence, (*about_licence, *about_task, *about_pooling))


def _licence(info: ModelInfo, page: str) -> tuple[str, tuple[str, ...]]:
    card = info.card_data
    said = [*_words(card.get("license")), *_words(card.get("license_name"))] if card else []
    said += [tag.removeprefix("license:") for tag in _tags(info) if tag.startswith("license:")]
    named = [each for each in said if each not in ("other", "unknown")]
    licence = next(iter(named or said), "")
    warnings = []
    if info.gated in ("auto", "manual", True):
        warnings.append(f"it is gated: the conditions that were accepted at {page} hold for what is fetched")
    if not licence:
        warnings.append(f"it names no licence: ask its authors before you use it ({page})")
    elif _NON_COMMERCIAL.search(licence.lower()):
        warnings.append(f"its licence, {licence}, allows no commercial use; read it at {page}")
    elif any(each.lower().startswith(_CONDITIONS) or "research" in each.lower() for each in said):
        warnings.append(f"its licence, {licence}, has conditions; read them at {page}")
    return licence, tuple(warnings)


def _task(info: ModelInfo, framework: str) -> tuple[str, tuple[str, ...]]:
    """Name the task as the registry knows it; of a bundle it takes no other."""
    said = _said_task(info)
    task = find_named(said)
    if task is not None:
        return task.value, ()
    if framework != "TRANSFORMERS" or not said:
        return said, ()
    sentence = (
        f"its task, {said}, is none that is served of a bundle ({TASK_TYPES}): it is left empty, and what the graph "
        "gives decides"
    )
    return "", (sentence,)


def _said_task(info: ModelInfo) -> str:
    return _word(info.pipeline_tag) or (_word(info.card_data.get("pipeline_tag")) if info.card_data else "")


def generates(info: ModelInfo, config: Mapping[str, Any]) -> str:
    """Say by what a model is known to make texts, which no bundle does; '' where nothing says so.

    A task that is served goes before: some embed texts with a decoder.
    """
    said = _said_task(info)
    if find_named(said) is not None:
        return ""
    if said in _GENERATING:
        return f"its task is {said}"
    named = next((name for name in _words(config.get("architectures")) if name.endswith(_GENERATORS)), "")
    return f"config.json names {named}" if named else ""


def _pooling(texts: Texts) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Say how tokens' vectors become the text's, as sentence-transformers saved it."""
    fields: dict[str, Any] = {}
    warnings = []
    modes = [name for name, on in texts.pooling_config.items() if name.startswith("pooling_mode_") and on is True]
    if len(modes) == 1 and modes[0] in POOLINGS:
        fields["pooling"] = POOLINGS[modes[0]]
    elif modes:
        named = ", ".join(filter(None, map(_word, modes[:MAX_WORDS])))
        warnings.append(f"it pools by {named}; {MEAN} and {CLS} are served, unless the graph pools itself")
    unknown = [name for name in texts.modules if name and name not in KNOWN_MODULES]
    if unknown:
        warnings.append(f"modules.json has {', '.join(unknown)} after the encoder, which the graph has to have inside")
    if not modes:
        # The mean of a model that was trained for another is a vector as well, and nobody sees that it is wrong.
        warnings.append(
            "nothing says how its tokens' vectors become the text's: unless the graph does that itself, serving takes "
            f"the {MEAN}, and many models need {CLS}, such as BGE's; see its card, and where it says so, fetch it with "
            f"the metadata field `pooling: {CLS}` (in a suite file, or by metadata= of the SDK)"
        )
    if "Pooling" in texts.modules:
        fields["normalize"] = "Normalize" in texts.modules
    return fields, tuple(warnings)


def _dimensions(texts: Texts) -> int:
    said = [texts.pooling_config.get("word_embedding_dimension"), *(texts.config.get(name) for name in _WIDTHS)]
    return next((each for each in said if _is_count(each)), 0)


def _smallest(*said: object) -> int:
    """Give the smallest count of those said; tokenizers write 10^30 for none."""
    return min((each for each in said if _is_count(each)), default=0)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


def _tags(info: ModelInfo) -> list[str]:
    """Give the tags, the licence's first; those of regions say where the Hub keeps it."""
    said = dict.fromkeys(_word(tag, MAX_TAG_BYTES) for tag in info.tags or ())
    kept = [tag for tag in said if tag and not tag.startswith("region:")]
    return sorted(kept, key=lambda tag: not tag.startswith("license:"))[:MAX_TAGS]


def _words(value: object) -> list[str]:
    said = value if isinstance(value, list) else [value]
    return [word for each in said[:MAX_WORDS] if (word := _word(each))]


def _word(value: object, most: int = MAX_WORD_BYTES) -> str:
    """Give a text if it is one, short and printable; else ''."""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        return ""
    return value.strip() if len(value.encode()) <= most else ""
