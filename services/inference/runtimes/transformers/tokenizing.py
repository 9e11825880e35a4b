"""Texts to the ids of a model's tokens, by the Rust tokenizers that also trained and exported them.

`tokenizer.json` holds the whole way: normalising, splitting, the vocabulary, and where the special tokens go around
one text or two. Only its padding and truncation are set anew: they belong to whoever saved it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# Its own threads would take the cores that other runs need; a text is tokenised in a hundredth of its run's time.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer

from services.common.errors import DomainError, InvalidArgument
from services.inference.runtimes.transformers.bundle import TOKENIZER, Bundle, refused
from services.inference.tensors import Tensor

MAX_TOKENIZER_BYTES: Final = 128 * 2**20
CHARS_PER_TOKEN: Final = 8
"""Texts over so many characters for each token that is read are long: of them only a beginning is tokenised."""
GROWTH: Final = 4
"""The next beginning is so many times longer: all together take at most a third more than the whole."""
MAX_SENTENCE_CHARS: Final = 200
WORDS_AFTER: Final = 2
"""A token stands once so many words follow it: no splitting looks further ahead."""
Sequences = Sequence[str] | Sequence[tuple[str, str]]


class TextTokenizer:
    """Encodes texts, or pairs of them, cut at `max_tokens`. Any number of threads may use it at once."""

    def __init__(self, folder: Path, bundle: Bundle, max_tokens: int) -> None:
        with _any_fault_as(lambda said: refused(f"{TOKENIZER} cannot be used: {said}")):
            self._tokenizer = _open(folder / TOKENIZER)
            self._tokenizer.no_padding()
            special = self._tokenizer.num_special_tokens_to_add(is_pair=True)
            if max_tokens <= special:  # the library would not cut then
                sentence = f"the model reads {max_tokens} tokens, and {special} are taken by what stands around a text"
                raise refused(sentence)
            self._tokenizer.enable_truncation(max_tokens)
            self._long_chars = CHARS_PER_TOKEN * max_tokens
            self._longest_added = max(
                (len(token.content) for token in self._tokenizer.get_added_tokens_decoder().values()), default=0
            )
            self.pad_id = self._pad_id(bundle)

    def encode(self, sequences: Sequences, *, offsets: bool = False) -> list[Any]:
        """Give an encoding for each; with `offsets` also where each token stands in its text, in characters.

        Raises InvalidArgument(INPUT_REFUSED) for a text that the vocabulary has no way to write.
        """
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        with _any_fault_as(
            lambda said: InvalidArgument(f"the tokenizer refuses this input: {said}", reason="INPUT_REFUSED")
        ):
            encodings: list[Any] = encode([self._beginnings(each) for each in sequences])
        return encodings

    def _beginnings(self, sequence: str | tuple[str, str]) -> str | tuple[str, str]:
        if isinstance(sequence, str):
            return self._beginning(sequence)
        return self._beginning(sequence[0]), self._beginning(sequence[1])

    def _beginning(self, text: str) -> str:
        """Give as much of a long text as settles the tokens that are read: those of the whole text, to the last one.

        A token of a beginning is one of the whole text if it ends before the last few words and further from the end
        than the longest added token is long: what follows later cannot change it, since words are tokenised alone.
        Where a tokenizer makes no words, or the text is one, no beginning settles anything, and the whole is taken.
        (Of a pair of two such long texts, the odd token may go to the other one than in the whole.)
        """
        size = self._long_chars
        while size < len(text):
            if self._settles(self._tokenizer.encode(text[:size]), size):
                return text[:size]
            size *= GROWTH
        return text

    def _settles(self, encoding: Any, size: int) -> bool:
        if not encoding.overflowing:
            return False
        words = [word for word in encoding.word_ids if word is not None]
        later = [word for word in encoding.overflowing[-1].word_ids if word is not None]
        ends = [end for _, end in encoding.offsets]
        return bool(
            words and later and words[-1] + WORDS_AFTER <= later[-1] and max(ends) + self._longest_added <= size
        )

    def _pad_id(self, bundle: Bundle) -> int:
        named = self._tokenizer.token_to_id(bundle.pad_token) if bundle.pad_token else None
        said = bundle.config.get("pad_token_id") if named is None else named
        return said if isinstance(said, int) and said >= 0 else 0


def texts_of(name: str, tensor: Tensor) -> list[str]:
    """Read a BYTES tensor as texts; raises InvalidArgument(INVALID_UTF8) that names the row."""
    texts: list[str] = []
    for row, element in enumerate(tensor.ravel().tolist()):
        try:
            texts.append(element.decode() if isinstance(element, bytes) else str(element))
        except UnicodeDecodeError as error:
            sentence = f"row {row} is not UTF-8: {error.reason} at byte {error.start}"
            raise InvalidArgument.field(name, sentence, reason="INVALID_UTF8") from error
    return texts


@contextmanager
def _any_fault_as(meant: Callable[[str], DomainError]) -> Iterator[None]:
    """Say what the library raises, which is nothing special, or a panic of its Rust, which is no `Exception` even."""
    try:
        yield
    except (DomainError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise meant(" ".join(str(error).split())[:MAX_SENTENCE_CHARS]) from error


def _open(path: Path) -> Tokenizer:
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError as error:
        raise refused(f"the bundle has no {path.name}; it holds all that a text needs") from error
    if size_bytes > MAX_TOKENIZER_BYTES:
        raise refused(f"{path.name} has more than {MAX_TOKENIZER_BYTES:,} bytes")
    with _any_fault_as(lambda said: refused(f"{path.name} cannot be opened: {said}")):
        return Tokenizer.from_file(str(path))
