"""Encode documents as token ids, with a faster engine if its ids equal the tokenizer's."""

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from hf_llm.data.arrow import column, token_table

logger = logging.getLogger(__name__)

# Bytes of text that are encoded together: bounds the memory, and occupies all threads of the engine.
BYTES_PER_BATCH = 64_000_000
# The fast engine is verified on this many documents of the data, and this many characters of all of them.
VERIFIED_DOCUMENTS, VERIFIED_CHARACTERS = 256, 500_000
# In a stream also on this many documents of each call, and this many characters of each of them.
VERIFIED_PER_CALL, VERIFIED_PREFIX = 16, 2_000
# D texts -> (ids of all documents, one after the other, (N,) int32; where each begins and ends, (D + 1,) int64)
Encode = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def tokenizer_engine(
    tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool = True, split_special_tokens: bool = True
) -> Encode:
    """Return a function that encodes with the tokenizer itself."""

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        documents = tokenizer(
            texts,
            add_special_tokens=add_special_tokens,
            split_special_tokens=split_special_tokens,
            return_attention_mask=False,
            verbose=False,
        ).input_ids
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])])
        ids = np.fromiter((token for ids in documents for token in ids), np.int32, count=offsets[-1])
        return ids, offsets

    return encode


def fastokens_engine(
    tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool = True, split_special_tokens: bool = True
) -> Encode:
    """Return a function that encodes with `fastokens`, which reads the same tokenizer.json.

    Raises:
        ImportError: it is not installed.
        Exception: it does not support the tokenizer.
    """
    import fastokens

    engine = fastokens.Tokenizer.from_json_str(tokenizer.backend_tokenizer.to_str())
    engine.no_truncation()
    engine.no_padding()

    options = {"add_special_tokens": add_special_tokens, "split_special_tokens": split_special_tokens}

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = engine.encode_batch_flat(texts, **options)
        return np.frombuffer(ids, np.uint32).astype(np.int32), np.frombuffer(offsets, np.uint64).astype(np.int64)

    return encode


def select_engine(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    add_special_tokens: bool = True,
    verify_each_call: bool = False,
    split_special_tokens: bool = True,
) -> tuple[str, Encode]:
    """Choose the fast engine if its ids on `texts` equal the tokenizer's, and the tokenizer itself otherwise.

    Args:
        add_special_tokens: add those that the tokenizer puts around a document.
        verify_each_call: compare on some texts of every call too: in a stream, other text may come later.
        split_special_tokens: special tokens that occur in a text are text.

    Returns:
        The name of the engine and its function.
    """
    own = tokenizer_engine(tokenizer, add_special_tokens, split_special_tokens)
    try:
        fast = fastokens_engine(tokenizer, add_special_tokens, split_special_tokens)
        equal = all(np.array_equal(a, b) for a, b in zip(fast(texts), own(texts), strict=True))
    except Exception as error:  # of any class: the tokenizer itself still works
        logger.info(f"Tokenizer engine: the tokenizer itself; fastokens cannot be used ({error})")
        return "tokenizers", own
    if not equal:
        logger.warning("Tokenizer engine: the tokenizer itself; fastokens gave other ids on a sample of this text")
        return "tokenizers", own
    logger.debug(f"Tokenizer engine: fastokens, whose ids on {len(texts)} documents of this text equal the tokenizer's")
    return "fastokens", verify_calls(fast, own) if verify_each_call else fast


def verify_calls(fast: Encode, own: Encode) -> Encode:
    """Return a function that compares both engines on a few texts of each call.

    It encodes with the fast engine if the ids are equal, and with the tokenizer otherwise.
    """

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        sample = [text[:VERIFIED_PREFIX] for text in texts[:: len(texts) // VERIFIED_PER_CALL + 1]]
        if all(np.array_equal(a, b) for a, b in zip(fast(sample), own(sample), strict=True)):
            return fast(texts)
        logger.warning("Tokenizer engine: fastokens gave other ids on some texts; the tokenizer itself encodes them")
        return own(texts)

    return encode


def sample_texts(dataset: Dataset) -> list[str]:
    """Return up to 256 evenly spaced documents, shortened to half a million characters in all."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(VERIFIED_DOCUMENTS, len(dataset))).astype(int))
    share = VERIFIED_CHARACTERS // len(indices)
    return [text[:share] for text in dataset.select(indices)["text"]]


def append_token(ids: np.ndarray, offsets: np.ndarray, token: int) -> tuple[np.ndarray, np.ndarray]:
    """Append `token` to every document.

    Example:
        >>> append_token(np.array([5, 6, 7]), np.array([0, 2, 3]), 9)
        (array([5, 6, 9, 7, 9]), array([0, 3, 5]))
    """
    return np.insert(ids, offsets[1:], token), offsets + np.arange(len(offsets))


def document_engine(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], verify_each_call: bool = False
) -> tuple[str, Encode]:
    """Choose an engine as `select_engine` does, and end each document with exactly one end-of-sequence token.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token.
    """
    end: Any = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id  # BERT has [SEP]
    if end is None:
        raise ValueError(f"tokenizer `{tokenizer.name_or_path}` has no eos token: give another `--tokenizer_name`")
    name, encode = select_engine(tokenizer, texts, verify_each_call=verify_each_call)
    if tokenizer("a").input_ids[-1] == end:
        return name, encode
    return name, lambda texts: append_token(*encode(texts), end)


def tokenizer_definition(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What a tokenizer is made of, without the truncation and padding of its last call."""
    if not tokenizer.is_fast:
        return sorted(tokenizer.get_vocab().items())
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in content.items() if name not in ("truncation", "padding")}


def tokenizer_rules(tokenizer: PreTrainedTokenizerBase) -> str:
    """All by which `tokenize` makes ids of a document: special tokens, which no text becomes, are not among it."""
    rules = tokenizer_definition(tokenizer)
    if isinstance(rules, dict):
        ordinary = [token for token in rules["added_tokens"] if not token["special"]]
        rules = {name: rules[name] for name in ("normalizer", "pre_tokenizer", "post_processor", "model")}
        rules["added_tokens"] = ordinary
    return json.dumps([rules, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id], sort_keys=True)


def tokenize(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Encode every document of the column `text` and end it with the end-of-sequence token.

    Args:
        dataset: rows `{"text": str}`.
        tokenizer: adds the tokens that it puts before a document by itself (BOS or none).

    Returns:
        Rows `{"input_ids": list[int32]}`, one for each document, cached by `datasets`.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token.
    """
    name, encode = document_engine(tokenizer, sample_texts(dataset))
    documents = map_texts(dataset, tokenizer, lambda texts, first: token_table(*encode(texts)), name)
    warn_of_unknown_tokens(documents, tokenizer)
    return documents


def warn_of_unknown_tokens(documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn of text that has become the unknown token: the model can neither read nor write it.

    Args:
        documents: with the column `input_ids`.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return  # GPT-2 gives all of these roles to one token
    ids = [chunk.flatten() for chunk in column(documents, "input_ids").chunks]
    if count := sum(pc.sum(pc.equal(chunk, unknown)).as_py() or 0 for chunk in ids):
        logger.warning(
            f"{count:,} of {sum(map(len, ids)):,} tokens are `{tokenizer.unk_token}`: text that the tokenizer lacks "
            "and the model can neither read nor write; take a model or tokenizer with bytes for it, or replace the text"
        )


def map_texts(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    convert: Callable[[list[str], int], pa.Table],
    *settings: object,
) -> Dataset:
    """Convert all texts in batches; the result is cached by `datasets`.

    Args:
        convert: called with the texts of a batch and the index of the first one.
        settings: part of the cache's key, with the texts and the tokenizer; the first one is shown while it runs.
    """
    mean_bytes = pc.mean(pc.binary_length(dataset.with_format("arrow")[:]["text"])).as_py()
    definition = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer
    return dataset.with_format("arrow").map(
        lambda table, indices: convert(table["text"].to_pylist(), indices[0]),
        batched=True,
        with_indices=True,
        batch_size=max(1, int(BYTES_PER_BATCH / mean_bytes)),
        remove_columns=dataset.column_names,
        new_fingerprint=Hasher.hash((dataset._fingerprint, definition, tokenizer.eos_token_id, *settings)),
        desc=f"Tokenizing ({settings[0]})",
    )
