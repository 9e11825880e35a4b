"""Of a long text only a beginning is tokenised, and the ids are those of the whole: for each kind of tokenizer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece

from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.models import Metadata
from services.inference.runtimes.transformers.bundle import Bundle
from services.inference.runtimes.transformers.tokenizing import TextTokenizer
from tests.testdata.bundles import PANICS_WHEN_OPENED, PANICS_WHEN_USED

WORDS = (
    "a",
    "pipe",
    "feeds",
    "turbines",
    "don't",
    "naïve",
    "日本語",
    "…",
    "x1y2",
    "\n\n",
    "e\u0301te\u0301",
    "ΣΊΣΥΦΟΣ",
    "[SEP]",
)
MAX_TOKENS = 24


def text(words: int, seed: int, between: str = " ") -> str:
    return between.join(random.Random(seed).choices(WORDS, k=words))


def word_piece() -> Tokenizer:
    made = Tokenizer(WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(made, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"]))


def byte_level() -> Tokenizer:
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        made,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], initial_alphabet=alphabet),
    )


def unigram() -> Tokenizer:
    made = Tokenizer(Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    return trained(made, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="[UNK]"))


def unsplit() -> Tokenizer:
    made = unigram()
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return made


def trained(made: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    made.train_from_iterator([text(200, seed) for seed in range(20)], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "WordPiece": word_piece, "byte-level BPE": byte_level, "Unigram": unigram, "Unigram without words": unsplit,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_the_whole_text(tmp_path: Path, kind: str) -> None:
    whole = KINDS[kind]()
    whole.save(str(tmp_path / "tokenizer.json"))
    whole.enable_truncation(MAX_TOKENS)
    ours = TextTokenizer(tmp_path, Bundle.read(tmp_path, Metadata()), MAX_TOKENS)
    texts = [
        text(words, seed, between) for seed, words in enumerate((0, 1, 20, 60, 300, 3_000)) for between in (" ", "")
    ]
    texts += [" " * 5_000 + "pipe feeds", "a" * 5_000, "[SE" * 400, "日" * 3_000, "\u0301" * 2_000, "…\n\n\n" * 900]
    for each, encoding in zip(texts, ours.encode(texts), strict=True):
        assert encoding.ids == whole.encode(each).ids, each[:60]
        [pair] = ours.encode([("who feeds?", each)])
        expected = whole.encode("who feeds?", each)
        assert (pair.ids, pair.type_ids) == (expected.ids, expected.type_ids), each[:60]
        [offsets] = ours.encode([each], offsets=True)
        assert offsets.offsets == whole.encode(each).offsets


@pytest.mark.parametrize("follows", ["<|very_long|> pipe ", "turbines" * 60])
def test_what_stands_across_the_end_of_a_beginning_is_not_taken_for_what_it_seems(tmp_path: Path, follows: str) -> None:
    """A part of an added token, or of a word that is too long to be known, looks like words that it is not."""
    whole = word_piece()
    whole.add_special_tokens(["<|very_long|>"])
    whole.save(str(tmp_path / "tokenizer.json"))
    whole.enable_truncation(MAX_TOKENS)
    ours = TextTokenizer(tmp_path, Bundle.read(tmp_path, Metadata()), MAX_TOKENS)
    for first, second in itertools.product(range(14, 24), range(9)):
        each = "turbines " * first + "a " * second + (follows * 40)[:1_500]
        assert ours.encode([each])[0].ids == whole.encode(each).ids, (first, second)


@pytest.mark.parametrize("kind", ["WordPiece", "byte-level BPE", "Unigram"])
def test_a_million_characters_are_not_all_read(tmp_path: Path, kind: str) -> None:
    KINDS[kind]().save(str(tmp_path / "tokenizer.json"))
    ours = TextTokenizer(tmp_path, Bundle.read(tmp_path, Metadata()), MAX_TOKENS)
    assert len(ours._beginning(text(200_000, 0))) < 5_000


def test_a_text_that_the_vocabulary_cannot_write_is_refused(tmp_path: Path) -> None:
    made = Tokenizer(WordLevel({"a": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    ours = TextTokenizer(tmp_path, Bundle.read(tmp_path, Metadata()), MAX_TOKENS)
    with pytest.raises(InvalidArgument, match="the tokenizer refuses this input") as caught:
        ours.encode(["a pipe"])
    assert caught.value.reason == "INPUT_REFUSED"


def test_a_file_that_makes_the_library_panic_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(PANICS_WHEN_OPENED)
    with pytest.raises(FailedPrecondition, match=r"tokenizer\.json cannot be opened: range end index") as caught:
        TextTokenizer(tmp_path, Bundle.read(tmp_path, Metadata()), MAX_TOKENS)
    assert caught.value.reason == "MODEL_LOAD_FAILED"


@pytest.mark.parametrize("offsets", [False, True])
def test_a_text_that_makes_the_library_panic_is_refused(tmp_path: Path, offsets: bool) -> None:
    (tmp_path / "tokenizer.json").write_bytes(PANICS_WHEN_USED)
    ours = TextTokenizer(tmp_path, Bundle.read(tmp_path, Metadata()), MAX_TOKENS)
    for each in ("a b", "a " * 1_000):  # read at once, and by its beginning
        with pytest.raises(InvalidArgument, match="refuses this input: chunk size must be non-zero") as caught:
            ours.encode([each], offsets=offsets)
        assert caught.value.reason == "INPUT_REFUSED"


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "sentence_config", "max_tokens"),
    [
        ('{"max_position_embeddings": 512}', '{"model_max_length": 1e30}', "{}", 512),
        ('{"max_position_embeddings": 512}', '{"model_max_length": 128}', "{}", 128),
        ('{"max_position_embeddings": 512}', '{"model_max_length": 512}', '{"max_seq_length": 256}', 256),
        ('{"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}', "{}", "{}", 512),
        ('{"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}', "{}", "{}", 512),
        ("{}", "{}", "{}", 32_768),
        ('{"max_position_embeddings": Infinity}', '{"model_max_length": true}', '{"max_seq_length": "64"}', 32_768),
        ('{"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": null}', "{}", "{}", 514),
    ],
)
def test_a_model_reads_as_much_as_the_strictest_of_its_files_says(
    tmp_path: Path, config: str, tokenizer_config: str, sentence_config: str, max_tokens: int
) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_config)
    (tmp_path / "sentence_bert_config.json").write_text(sentence_config)
    assert Bundle.read(tmp_path, Metadata()).max_tokens == max_tokens
