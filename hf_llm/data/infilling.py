"""Fill-in-the-middle: documents in which a causal model learns to write the text between a prefix and a suffix.

Bavarian et al. 2022, arXiv 2207.14255: a text is split at two random characters into prefix, middle and suffix. The
parts are tokenized separately and put into one of two orders, with a sentinel token before each of them and the end of
text after the middle:

    PSM  <prefix> prefix <suffix> suffix <middle> middle <end>
    SPM  <prefix> <suffix> suffix <middle> prefix middle <end>

All tokens are trained on. Long texts are first cut into pieces that fit in a row and then split (the "context level" of
the paper), so that prefix, middle and suffix are always in the same row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_llm.data.arrow import column, token_table
from hf_llm.data.tokenization import Encode, map_texts, sample_texts, select_engine

# Tokens before prefix, suffix and middle: those of new tokenizers and Qwen, of StarCoder, of DeepSeek.
SENTINELS = [
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
]
SPLIT_MARGIN = 8  # tokens that the three parts of a text may have more than the whole text
LAYOUTS = ("causal", "psm", "spm", "too_long")  # too_long: left whole, because with its parts it would not fit in a row


@dataclass
class InfillingReport:
    """Number of documents with each layout.

    Args:
        counts: `documents` (texts), `documents_cut` (texts that were cut into pieces), and `fim_LAYOUT` (texts or
            pieces) for each of `LAYOUTS`.
    """

    counts: dict[str, int]

    def metrics(self, prefix: str) -> dict[str, int]:
        """The counts under the names that the results files use, e.g. `train_documents`, `train_fim_psm`."""
        return {f"{prefix}_{name}": count for name, count in self.counts.items()}


def count_layouts(layouts: np.ndarray, pieces: np.ndarray) -> dict[str, int]:
    """Count texts, cut texts, and pieces of each layout, for `InfillingReport`.

    Args:
        layouts: index in `LAYOUTS` of each piece, (pieces,).
        pieces: number of each piece within its text, (pieces,); a text in three pieces has 0, 1, 2.
    """
    counts = np.bincount(layouts, minlength=len(LAYOUTS)).tolist()
    layout_counts = {f"fim_{layout}": count for layout, count in zip(LAYOUTS, counts, strict=True)}
    return {"documents": int((pieces == 0).sum()), "documents_cut": int((pieces == 1).sum())} | layout_counts


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens before prefix, suffix and middle.

    Raises:
        ValueError: the tokenizer has none, or no end of text, or adds a space before each part of a text.
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
    ids = [id for part in ("ab", "cd") for id in tokenizer(part, add_special_tokens=False).input_ids]
    if (joined := tokenizer.decode(ids)) != "abcd":
        raise ValueError(
            f"tokenizer `{tokenizer.name_or_path}` makes {joined!r} of 'ab' and 'cd': `--objective` fim needs one that "
            "adds no space before a text, such as a byte-level BPE"
        )
    return [vocab[name] for name in names]


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the special tokens that the tokenizer puts before every text."""
    whole, body = tokenizer("ab").input_ids, tokenizer("ab", add_special_tokens=False).input_ids
    return whole[: len(whole) - len(body) - (whole[-1] == tokenizer.eos_token_id)]


def infilling_prompts(tokenizer: PreTrainedTokenizerBase, prefixes: list[str], suffixes: list[str]) -> list[list[int]]:
    """Token ids after which a model trained with `--objective fim` writes the text between prefix and suffix.

    Each is a PSM document up to its middle: `<prefix> prefix <suffix> suffix <middle>`.

    Raises:
        ValueError: the tokenizer has no sentinel tokens.
    """
    before_prefix, before_suffix, before_middle = sentinel_ids(tokenizer)
    begin = leading_ids(tokenizer)
    prefix_ids, suffix_ids = (
        tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
        for texts in (prefixes, suffixes)
    )
    pairs = zip(prefix_ids, suffix_ids, strict=True)
    return [[*begin, before_prefix, *prefix, before_suffix, *suffix, before_middle] for prefix, suffix in pairs]


@dataclass
class FillInTheMiddle:
    """Tokenizes texts, and rearranges some of them for filling in the middle.

    Args:
        encode: the tokenizer's engine without its special tokens.
        max_length: tokens of a row; a longer text is cut into pieces before it is split.
        rate: share of the texts that are split.
        spm_rate: share of the split texts that get the layout SPM; the others get PSM.
    """

    tokenizer: PreTrainedTokenizerBase
    encode: Encode
    max_length: int
    rate: float = 0.5
    spm_rate: float = 0.5

    def __post_init__(self):
        self.sentinels = [np.array([id], np.int32) for id in sentinel_ids(self.tokenizer)]
        self.begin = np.array(leading_ids(self.tokenizer), np.int32)
        self.end = np.array([self.tokenizer.eos_token_id], np.int32)
        self.max_text_tokens = self.max_length - len(self.begin) - 1 - len(self.sentinels)

    def __call__(
        self, texts: list[str], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Make documents of texts; the same state of `generator` gives the same documents.

        Returns:
            Token ids of all documents one after the other, (N,) int32; their offsets, (documents + 1,); the index in
            `LAYOUTS` of each one's layout, (documents,) int8; and its number within its text, (documents,) int32.
        """
        sizes = np.diff(self.encode(texts)[1]).tolist()
        text_pieces = [list(self.cut_text(text, size)) for text, size in zip(texts, sizes, strict=True)]
        pieces = [piece for pieces in text_pieces for piece in pieces]
        piece_parts = [self.split(text, generator) for text, *_ in pieces]
        ids, offsets = self.encode([part for parts in piece_parts for part in parts])
        encoded_parts = iter(np.split(ids, offsets[1:-1]))
        results = [
            self.build_document([next(encoded_parts) for _ in parts], *piece, generator)
            for piece, parts in zip(pieces, piece_parts, strict=True)
        ]
        documents, layouts = zip(*results, strict=True)
        offsets = np.concatenate([[0], np.cumsum([len(document) for document in documents])])
        numbers = np.concatenate([np.arange(len(pieces), dtype=np.int32) for pieces in text_pieces])
        return np.concatenate(documents), offsets, np.array(layouts, np.int8), numbers

    def build_document(
        self, parts: list[np.ndarray], text: str, first: bool, last: bool, generator: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Make the document of one piece.

        Args:
            parts: token ids of the whole piece, or of its prefix, middle and suffix.
            text: the piece.
            first: it is the first piece of its text and gets the leading tokens.
            last: it is the last piece of its text and gets the end of text.

        Returns:
            Token ids, and the index of the layout in `LAYOUTS`.
        """
        if len(parts) == 3 and sum(map(len, parts)) <= self.max_text_tokens:
            suffix_first = generator.random() < self.spm_rate
            prefix, middle, suffix = parts
            document = self.order_parts(prefix, middle, suffix, suffix_first)
            return document, LAYOUTS.index("spm" if suffix_first else "psm")
        body, layout = (parts[0], "causal") if len(parts) == 1 else (self.encode([text])[0], "too_long")
        whole = [*([self.begin] if first else []), body, *([self.end] if last else [])]
        return np.concatenate(whole), LAYOUTS.index(layout)

    def cut_text(self, text: str, size: int) -> Iterator[tuple[str, bool, bool]]:
        """Cut a text of `size` tokens into pieces of about equal size that fit in a row.

        Yields:
            The piece, and whether it is the first and the last one. 100 tokens where 40 fit: pieces from the tokens 0,
            33 and 66 on.
        """
        pieces = -(-size // max(1, self.max_text_tokens - SPLIT_MARGIN))
        if pieces <= 1:
            yield text, True, True
            return
        spans = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        ).offset_mapping
        starts = [spans[len(spans) * piece // pieces][0] for piece in range(1, pieces)]
        for piece, (start, stop) in enumerate(pairwise([0, *starts, len(text)])):
            yield text[start:stop], piece == 0, piece == pieces - 1

    def split(self, text: str, generator: np.random.Generator) -> list[str]:
        """Prefix, middle and suffix, each of which may be empty, or only the text, which then stays whole."""
        if generator.random() >= self.rate:
            return [text]
        start, stop = sorted(generator.integers(0, len(text) + 1, 2).tolist())
        return [text[:start], text[start:stop], text[stop:]]

    def order_parts(self, prefix: np.ndarray, middle: np.ndarray, suffix: np.ndarray, suffix_first: bool) -> np.ndarray:
        """Token ids of a split text with its sentinels: SPM if `suffix_first`, else PSM."""
        before_prefix, before_suffix, before_middle = self.sentinels
        if suffix_first:
            parts = [before_prefix, before_suffix, suffix, before_middle, prefix, middle]
        else:
            parts = [before_prefix, prefix, before_suffix, suffix, before_middle, middle]
        return np.concatenate([self.begin, *parts, self.end])


def infilling_converter(
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    max_length: int,
    rate: float,
    spm_rate: float,
    verify_each_call: bool = False,
) -> tuple[str, Callable[[list[str], np.random.Generator], pa.Table]]:
    """Prepare `FillInTheMiddle` for the texts of a dataset.

    Args:
        dataset: a sample of its texts proves that the engine equals the tokenizer.
        verify_each_call: as for `select_engine`.

    Returns:
        Name of the engine, and a function of texts and a random generator that returns a table with the columns
        `input_ids`, `layout` and `piece`, one row per document.
    """
    name, encode = select_engine(
        tokenizer, sample_texts(dataset), add_special_tokens=False, verify_each_call=verify_each_call
    )
    fill_in_the_middle = FillInTheMiddle(tokenizer, encode, max_length, rate, spm_rate)

    def convert(texts: list[str], generator: np.random.Generator) -> pa.Table:
        ids, offsets, layouts, pieces = fill_in_the_middle(texts, generator)
        return token_table(ids, offsets, layout=layouts, piece=pieces)

    return name, convert


def tokenize_for_infilling(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, rate: float, spm_rate: float, seed: int
) -> tuple[Dataset, InfillingReport]:
    """Tokenize texts as `tokenize` does, arranged by `FillInTheMiddle`; a text has the same layout in every epoch."""
    name, convert = infilling_converter(tokenizer, dataset, max_length, rate, spm_rate)
    documents = map_texts(
        dataset,
        tokenizer,
        lambda texts, first: convert(texts, np.random.default_rng([seed, first])),
        *(name, max_length, rate, spm_rate, seed, "layout", "piece"),
    )
    layouts, pieces = (column(documents, name).to_numpy() for name in ("layout", "piece"))
    report = InfillingReport(count_layouts(layouts, pieces))
    return documents.remove_columns(["layout", "piece"]), report
