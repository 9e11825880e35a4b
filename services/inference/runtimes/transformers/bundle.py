"""A bundle's own settings: what its JSON files and the version's metadata say of reading texts and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from services.common.errors import FailedPrecondition
from services.common.text_tasks import CLS, KNOWN_MODULES, MEAN, POOLINGS
from services.inference.models import Metadata

TOKENIZER: Final = "tokenizer.json"
MAX_JSON_BYTES: Final = 16 * 2**20
LONGEST_TOKENS: Final = 32_768
"""Where nobody says what the model reads: tokenizers write 10^30 for that."""
# Their tables of positions begin after the padding's own place.
OFFSET_POSITIONS: Final = frozenset({"camembert", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"})
DEFAULT_TEMPLATE: Final = "This example is {}."


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files as read, and the fields of the version's metadata."""

    config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    sentence_config: Mapping[str, Any]
    pooling_config: Mapping[str, Any]
    modules: tuple[str, ...]
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, metadata: Metadata) -> Bundle:
        """Read a bundle; raises FailedPrecondition(MODEL_LOAD_FAILED) for a file that is no JSON."""
        modules = _read(folder / "modules.json", [])
        pooling = next((each.get("path") for each in modules if _kind(each) == "Pooling"), None) or "1_Pooling"
        # Only inside the bundle: the path is what an upload says.
        inside = (folder / str(pooling) / "config.json").resolve()
        known = inside if inside.is_relative_to(folder.resolve()) else folder / "1_Pooling" / "config.json"
        return cls(
            config=_read(folder / "config.json", {}),
            tokenizer_config=_read(folder / "tokenizer_config.json", {}),
            sentence_config=_read(folder / "sentence_bert_config.json", {}),
            pooling_config=_read(known, {}),
            modules=tuple(filter(None, map(_kind, modules))),
            fields=metadata.fields,
        )

    @property
    def max_tokens(self) -> int:
        """The most tokens that the model reads of a text, special ones included."""
        positions = self.config.get("max_position_embeddings")
        padding = self.config.get("pad_token_id")
        if self.config.get("model_type") in OFFSET_POSITIONS and _is_count(positions) and isinstance(padding, int):
            positions -= padding + 1
        said = (positions, self.tokenizer_config.get("model_max_length"), self.sentence_config.get("max_seq_length"))
        return int(min([each for each in said if _is_count(each)] + [LONGEST_TOKENS]))

    @property
    def pad_token(self) -> str:
        """The token that fills short texts up; '' where none is named."""
        token = self.tokenizer_config.get("pad_token")
        return str(token.get("content", "") if isinstance(token, dict) else token or "")

    @property
    def pooling(self) -> str:
        """How the tokens' vectors become the text's: `mean` or `cls`, by metadata, by 1_Pooling, else `mean`."""
        said = self.fields.get("pooling")
        if said is not None:
            if said not in (MEAN, CLS):
                raise refused(f"the metadata field `pooling` is {said!r}; it may be {MEAN} or {CLS}")
            return str(said)
        modes = [name for name, on in self.pooling_config.items() if name.startswith("pooling_mode_") and on is True]
        if not modes:
            return MEAN
        if len(modes) > 1 or modes[0] not in POOLINGS:
            raise refused(f"the bundle pools by {', '.join(modes)}; {MEAN} and {CLS} are served")
        return POOLINGS[modes[0]]

    def check_modules(self) -> None:
        """Refuse a bundle whose embeddings take more than pooling: its graph must do that itself."""
        unknown = [name for name in self.modules if name not in KNOWN_MODULES]
        if unknown:
            raise refused(
                f"modules.json has {', '.join(unknown)} after the encoder, which no server here computes; export a "
                "graph with the output sentence_embedding, which has it inside"
            )

    @property
    def labels(self) -> Mapping[int, str]:
        """The classes by their number, as id2label names them."""
        named = self.config.get("id2label")
        if not isinstance(named, dict):
            return {}
        return {int(number): str(label) for number, label in named.items() if str(number).isdecimal()}

    @property
    def architecture(self) -> str:
        """The model's class, such as BertForSequenceClassification; '' where config.json names none."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    @property
    def multi_label(self) -> bool:
        """Whether several classes may hold at once."""
        return self.flag("multi_label", default=self.config.get("problem_type") == "multi_label_classification")

    @property
    def raw_scores(self) -> bool:
        """Whether a reranker's scores are served as they come: sentence-transformers' own setting, under both names."""
        ours = self.config.get("sentence_transformers")
        said = ours.get("activation_fn") if isinstance(ours, dict) else None
        said = said or self.config.get("sbert_ce_default_activation_function")
        return not self.flag("normalize", default=not str(said).endswith("Identity"))

    @property
    def hypothesis_template(self) -> str:
        """The sentence that a zero-shot label is put into."""
        template = self.fields.get("hypothesis_template", DEFAULT_TEMPLATE)
        if not isinstance(template, str) or "{}" not in template:
            raise refused(
                f"the metadata field `hypothesis_template` is {template!r}; it must be a text that holds {{}}"
            )
        return template

    def flag(self, name: str, *, default: bool) -> bool:
        """Read a metadata field that is true or false."""
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            raise refused(f"the metadata field `{name}` is {value!r}; it may be true or false")
        return value


def refused(sentence: str) -> FailedPrecondition:
    """Make the error for a bundle that cannot be served."""
    return FailedPrecondition(sentence, reason="MODEL_LOAD_FAILED")


def _is_count(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1


def _kind(module: Any) -> str:
    """Name a module of sentence-transformers by its class alone."""
    return str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""


def _read(path: Path, default: Any) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise refused(f"{path.name} has more than {MAX_JSON_BYTES:,} bytes, which no such file needs")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return default
    except (ValueError, RecursionError) as error:
        raise refused(f"{path.name} is no JSON; take it from the model as it was saved") from error
    if not isinstance(document, type(default)):
        raise refused(f"{path.name} is not what it should be, {type(default).__name__}; take it as it was saved")
    return document
