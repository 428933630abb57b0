"""Text -> token ids: documents encoded on the fastest engine that is proven equal to the tokenizer."""

import logging
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from hf_llm.data.arrow import token_table

logger = logging.getLogger(__name__)

# Text per batch of the conversion: bounds its memory, and is enough for the engine's threads.
BYTES_PER_BATCH = 64_000_000
# An engine is trusted after it gave the tokenizer's own ids on this many of the user's documents.
PROOF_DOCUMENTS, PROOF_CHARACTERS = 256, 500_000
PROOF_PER_CALL, PROOF_SHARE = 16, 2_000  # and in a stream on so many of each block, and of their characters
# texts -> (ids of all documents one after the other, (N,) int32; offsets, (documents + 1,) int64)
Encode = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def plain_engine(tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool = True) -> Encode:
    """The tokenizer itself. A special token spelled out in a document is text there, not a command."""
    options = {"split_special_tokens": True, "return_attention_mask": False, "verbose": False}

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        documents = tokenizer(texts, add_special_tokens=add_special_tokens, **options).input_ids
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])])
        ids = np.fromiter((token for ids in documents for token in ids), np.int32, count=offsets[-1])
        return ids, offsets

    return encode


def fast_engine(tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool = True) -> Encode:
    """`fastokens`, which reads the same tokenizer.json.

    Raises:
        ImportError: it is not installed.
        Exception: it does not know this kind of tokenizer.
    """
    import fastokens

    engine = fastokens.Tokenizer.from_json_str(tokenizer.backend_tokenizer.to_str())
    engine.no_truncation()
    engine.no_padding()

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = engine.encode_batch_flat(texts, add_special_tokens=add_special_tokens, split_special_tokens=True)
        return np.frombuffer(ids, np.uint32).astype(np.int32), np.frombuffer(offsets, np.uint64).astype(np.int64)

    return encode


def select_engine(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    add_special_tokens: bool = True,
    verify_each_call: bool = False,
) -> tuple[str, Encode]:
    """Choose the fastest engine whose ids on `texts` equal the tokenizer's own; returns its name and function.

    Args:
        add_special_tokens: those that the tokenizer puts around a document.
        verify_each_call: compare on some texts of every call too, where `texts` cannot stand for all of a stream.
    """
    plain = plain_engine(tokenizer, add_special_tokens)
    try:
        fast = fast_engine(tokenizer, add_special_tokens)
        equal = all(np.array_equal(a, b) for a, b in zip(fast(texts), plain(texts), strict=True))
    except Exception as error:  # a young library: whatever it raises, the tokenizer itself still works
        logger.info(f"Tokenizer engine: the tokenizer itself; fastokens cannot be used ({error})")
        return "tokenizers", plain
    if not equal:
        logger.warning("Tokenizer engine: the tokenizer itself; fastokens gave other ids on a sample of this text")
        return "tokenizers", plain
    logger.info(f"Tokenizer engine: fastokens, whose ids on {len(texts)} documents of this text equal the tokenizer's")
    return "fastokens", proved(fast, plain) if verify_each_call else fast


def proved(fast: Encode, plain: Encode) -> Encode:
    """The fast engine where it gives the tokenizer's ids on a few of the texts, and the tokenizer itself elsewhere."""

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        some = [text[:PROOF_SHARE] for text in texts[:: len(texts) // PROOF_PER_CALL + 1]]
        if all(np.array_equal(a, b) for a, b in zip(fast(some), plain(some), strict=True)):
            return fast(texts)
        logger.warning("Tokenizer engine: fastokens gave other ids on some texts; the tokenizer itself encodes them")
        return plain(texts)

    return encode


def sample_texts(dataset: Dataset) -> list[str]:
    """Up to 256 documents, evenly spread, of half a million characters together."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(PROOF_DOCUMENTS, len(dataset))).astype(int))
    share = PROOF_CHARACTERS // len(indices)
    return [text[:share] for text in dataset.select(indices)["text"]]


def append_token(ids: np.ndarray, offsets: np.ndarray, token: int) -> tuple[np.ndarray, np.ndarray]:
    """Put `token` at the end of every document.

    Example:
        >>> append_token(np.array([5, 6, 7]), np.array([0, 2, 3]), 9)
        (array([5, 6, 9, 7, 9]), array([0, 3, 5]))
    """
    return np.insert(ids, offsets[1:], token), offsets + np.arange(len(offsets))


def document_engine(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], verify_each_call: bool = False
) -> tuple[str, Encode]:
    """As `select_engine`, for whole documents: what the tokenizer puts in front of them, and one end of text.

    Raises:
        ValueError: the tokenizer has no token for the end of a text.
    """
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id  # BERT has [SEP]
    if end is None:
        raise ValueError(f"tokenizer `{tokenizer.name_or_path}` has no eos token: give another `--tokenizer_name`")
    name, encode = select_engine(tokenizer, texts, verify_each_call=verify_each_call)
    if tokenizer("a").input_ids[-1] == end:
        return name, encode
    return name, lambda texts: append_token(*encode(texts), end)


def tokenize(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Encode every document of the column `text` and end it with the end-of-sequence token.

    Args:
        dataset: rows `{"text": str}`.
        tokenizer: adds what it adds by itself in front (a BOS token, or nothing).

    Returns:
        Rows `{"input_ids": list[int32]}`, one a document, cached by `datasets` under text, tokenizer and engine.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token.
    """
    name, encode = document_engine(tokenizer, sample_texts(dataset))
    return map_texts(dataset, tokenizer, lambda texts, first: token_table(*encode(texts)), name)


def map_texts(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    convert: Callable[[list[str], int], pa.Table],
    *settings: object,
) -> Dataset:
    """`convert(texts, number of the first)` of all texts, some at a time; cached under texts, tokenizer, settings."""
    mean_bytes = pc.mean(pc.binary_length(dataset.with_format("arrow")[:]["text"])).as_py()
    definition = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer
    return dataset.with_format("arrow").map(
        lambda table, places: convert(table["text"].to_pylist(), places[0]),
        batched=True,
        with_indices=True,
        batch_size=max(1, int(BYTES_PER_BATCH / mean_bytes)),
        remove_columns=dataset.column_names,
        new_fingerprint=Hasher.hash((dataset._fingerprint, definition, tokenizer.eos_token_id, *settings)),
        desc=f"Tokenizing ({settings[0]})",
    )
