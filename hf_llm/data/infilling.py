"""Fill-in-the-middle: documents laid out so that a causal model learns to write what stands between two texts.

Bavarian et al. 2022, arXiv 2207.14255: two places drawn among the characters part a text into prefix, middle and
suffix, which are encoded apart and put in one of two orders, with a sentinel token before each and the end of text
behind the middle:

    PSM  <prefix> prefix <suffix> suffix <middle> middle <end>
    SPM  <prefix> <suffix> suffix <middle> prefix middle <end>

All of it is trained on. Long documents are cut into rows first and parted then (the paper's context level), so that
no row loses the context of its middle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_llm.data.arrow import token_table
from hf_llm.data.tokenization import Encode, map_texts, sample_texts, select_engine

# Prefix, suffix, middle, as models have them: ours and Qwen's, StarCoder's, DeepSeek's.
SENTINELS = [
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
]
SPARE = 8  # tokens by which three parts of a text may be more than the text


LAYOUTS = ("causal", "psm", "spm", "too_long")  # the last: it would not fit in a row, and stays as it was


@dataclass
class InfillingReport:
    """How many texts, and pieces of long ones, were laid out in which way.

    Args:
        counts: texts and those that were cut, and pieces for each of `LAYOUTS`.
    """

    counts: dict[str, int]

    def metrics(self, prefix: str) -> dict[str, int]:
        """The counts under the names that the results files use, e.g. `train_documents`, `train_fim_psm`."""
        return {f"{prefix}_{name}": count for name, count in self.counts.items()}


def count_layouts(layouts: np.ndarray, pieces: np.ndarray) -> dict[str, int]:
    """Of what `FillInTheMiddle` gives: texts, those that were cut, and pieces by their layout."""
    counts = np.bincount(layouts, minlength=len(LAYOUTS)).tolist()
    of_layout = {f"fim_{layout}": count for layout, count in zip(LAYOUTS, counts, strict=True)}
    return {"documents": int((pieces == 0).sum()), "documents_cut": int((pieces == 1).sum())} | of_layout


def sentinels(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens before prefix, suffix and middle.

    Raises:
        ValueError: the tokenizer has none, or no end of text, or writes a space before each part of a text.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer `{tokenizer.name_or_path}` has no eos token: give another `--tokenizer_name`")
    vocab = tokenizer.get_vocab()
    for names in SENTINELS:
        if all(name in vocab for name in names):
            break
    else:
        raise ValueError(
            f"tokenizer `{tokenizer.name_or_path}` has no tokens for `--objective` fim: add them to it and its model "
            "by `recipes/train_tokenizer.py --model_name_or_path MODEL --special_tokens "
            f"{' '.join(map(repr, SENTINELS[0]))}`"
        )
    parts = [id for part in ("ab", "cd") for id in tokenizer(part, add_special_tokens=False).input_ids]
    if (joined := tokenizer.decode(parts)) != "abcd":
        raise ValueError(
            f"tokenizer `{tokenizer.name_or_path}` makes {joined!r} of 'ab' and 'cd': `--objective` fim needs one that "
            "puts no space in front of a text, such as a byte-level BPE"
        )
    return [vocab[name] for name in names]


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that stand in front of every text."""
    whole, body = tokenizer("ab").input_ids, tokenizer("ab", add_special_tokens=False).input_ids
    return whole[: len(whole) - len(body) - (whole[-1] == tokenizer.eos_token_id)]


def infilling_prompts(tokenizer: PreTrainedTokenizerBase, prefixes: list[str], suffixes: list[str]) -> list[list[int]]:
    """Token ids behind which a model of `--objective fim` writes what stands between two texts, as PSM.

    Raises:
        ValueError: the tokenizer has no tokens for it.
    """
    before_prefix, before_suffix, before_middle = sentinels(tokenizer)
    begin, plain = opening(tokenizer), {"add_special_tokens": False, "split_special_tokens": True}
    encoded = zip(*(tokenizer(texts, **plain).input_ids for texts in (prefixes, suffixes)), strict=True)
    return [[*begin, before_prefix, *p, before_suffix, *s, before_middle] for p, s in encoded]


@dataclass
class FillInTheMiddle:
    """Encodes texts, and lays some of them out for filling in the middle.

    Args:
        encode: the tokenizer's engine without its special tokens.
        max_length: tokens of a row; a longer text is cut before it is parted.
        rate: share of the texts that are parted.
        spm_rate: share of those that begin with the suffix.
    """

    tokenizer: PreTrainedTokenizerBase
    encode: Encode
    max_length: int
    rate: float = 0.5
    spm_rate: float = 0.5

    def __post_init__(self):
        self.sentinels = [np.array([id], np.int32) for id in sentinels(self.tokenizer)]
        self.begin = np.array(opening(self.tokenizer), np.int32)
        self.end = np.array([self.tokenizer.eos_token_id], np.int32)
        self.room = self.max_length - len(self.begin) - 1 - len(self.sentinels)

    def __call__(
        self, texts: list[str], draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Lay out texts; the same draws give the same documents.

        Returns:
            Token ids of all documents one after the other, (N,) int32; their borders, (documents + 1,); the place of
            each one's layout in `LAYOUTS`, (documents,) int8; and its number among the pieces of its text.
        """
        sizes = np.diff(self.encode(texts)[1]).tolist()
        pieces_of = [list(self.cut(text, size)) for text, size in zip(texts, sizes, strict=True)]
        pieces = [piece for of_text in pieces_of for piece in of_text]
        parts = [self.part(text, draw) for text, *_ in pieces]
        ids, offsets = self.encode([part for of_piece in parts for part in of_piece])
        encoded = iter(np.split(ids, offsets[1:-1]))
        documents = [
            self.lay_out([next(encoded) for _ in of_piece], *piece, draw)
            for piece, of_piece in zip(pieces, parts, strict=True)
        ]
        documents, layouts = zip(*documents, strict=True)
        offsets = np.concatenate([[0], np.cumsum([len(document) for document in documents])])
        numbers = np.concatenate([np.arange(len(of_text), dtype=np.int32) for of_text in pieces_of])
        return np.concatenate(documents), offsets, np.array(layouts, np.int8), numbers

    def lay_out(
        self, bodies: list[np.ndarray], text: str, first: bool, last: bool, draw: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """One document of token ids, its three parts in an order that is drawn, and the place of its layout."""
        if len(bodies) == 3 and sum(map(len, bodies)) <= self.room:
            suffix_first = draw.random() < self.spm_rate
            return self.arrange(*bodies, suffix_first), LAYOUTS.index("spm" if suffix_first else "psm")
        body, layout = (bodies[0], "causal") if len(bodies) == 1 else (self.encode([text])[0], "too_long")
        parts = [*([self.begin] if first else []), body, *([self.end] if last else [])]
        return np.concatenate(parts), LAYOUTS.index(layout)

    def cut(self, text: str, size: int) -> Iterator[tuple[str, bool, bool]]:
        """Pieces of about equal size that fit in a row, and whether each is the first and the last of its text."""
        pieces = -(-size // max(1, self.room - SPARE))
        if pieces <= 1:
            yield text, True, True
            return
        spans = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        ).offset_mapping
        starts = [spans[len(spans) * piece // pieces][0] for piece in range(1, pieces)]
        for piece, (start, stop) in enumerate(pairwise([0, *starts, len(text)])):
            yield text[start:stop], piece == 0, piece == pieces - 1

    def part(self, text: str, draw: np.random.Generator) -> list[str]:
        """Prefix, middle and suffix, or the text as it is; each of them may be empty."""
        if draw.random() >= self.rate:
            return [text]
        start, stop = sorted(draw.integers(0, len(text) + 1, 2).tolist())
        return [text[:start], text[start:stop], text[stop:]]

    def arrange(self, prefix: np.ndarray, middle: np.ndarray, suffix: np.ndarray, suffix_first: bool) -> np.ndarray:
        """The parts of one text with their sentinels, as PSM or SPM."""
        before_prefix, before_suffix, before_middle = self.sentinels
        if suffix_first:
            parts = [before_prefix, before_suffix, suffix, before_middle, prefix, middle]
        else:
            parts = [before_prefix, prefix, before_suffix, suffix, before_middle, middle]
        return np.concatenate([self.begin, *parts, self.end])


def infilling(
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    max_length: int,
    rate: float,
    spm_rate: float,
    verify_each_call: bool = False,
) -> tuple[str, Callable[[list[str], np.random.Generator], pa.Table]]:
    """The engine that is equal to the tokenizer on this text, and texts -> documents by `FillInTheMiddle`.

    Args:
        verify_each_call: as for `select_engine`.
    """
    name, encode = select_engine(
        tokenizer, sample_texts(dataset), add_special_tokens=False, verify_each_call=verify_each_call
    )
    lay_out = FillInTheMiddle(tokenizer, encode, max_length, rate, spm_rate)

    def convert(texts: list[str], draw: np.random.Generator) -> pa.Table:
        ids, offsets, layouts, pieces = lay_out(texts, draw)
        return token_table(ids, offsets, layout=layouts, piece=pieces)

    return name, convert


def infill(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, rate: float, spm_rate: float, seed: int
) -> tuple[Dataset, InfillingReport]:
    """As `tokenize`, with texts laid out by `FillInTheMiddle`, each once, whatever the number of epochs."""
    name, convert = infilling(tokenizer, dataset, max_length, rate, spm_rate)
    documents = map_texts(
        dataset,
        tokenizer,
        lambda texts, first: convert(texts, np.random.default_rng([seed, first])),
        *(name, max_length, rate, spm_rate, seed, "layout", "piece"),
    )
    columns = documents.with_format("numpy")
    report = InfillingReport(count_layouts(columns["layout"][:], columns["piece"][:]))
    return documents.remove_columns(["layout", "piece"]), report
