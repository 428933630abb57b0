"""Train the vocabulary of a tokenizer, or extend that of an existing one for another language."""

import copy
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_llm.arguments import TokenizerArguments
from hf_llm.files import atomic_folder, write_json
from hf_llm.metrics.segmentation import WORD_PATTERN, segment_words

logger = logging.getLogger(__name__)

BOS, EOS, PAD, MASK = "<|bos|>", "<|eos|>", "<|pad|>", "<|mask|>"
MODELS = {  # each with its trainer
    "bpe": (models.BPE, trainers.BpeTrainer),
    "unigram": (models.Unigram, trainers.UnigramTrainer),
}
BATCH_TEXTS = 1000  # texts that are encoded together
# To learn merges, each token is written as the character of this number plus its id: never a surrogate or a space.
FIRST_CHARACTER = 0x10000
EXTRA_MERGES = 1.1  # times the number of new tokens: some merges give a token that exists already
SPACE = "\u2581"  # as SentencePiece writes it
BYTE = re.compile("<0x[0-9A-F]{2}>")
COVERAGE = 0.9995  # fraction of the characters of the text, as in SentencePiece
MAX_PIECES = 16  # old tokens in a new one


def train_or_extend(
    args: TokenizerArguments, tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """Train a new tokenizer, or extend `tokenizer`, as the arguments say.

    Returns:
        The tokenizer, and for each new id the old ids that it replaces.

    Raises:
        ValueError: there is nothing to add, or the tokenizer cannot be extended.
    """
    if tokenizer is None:
        return train_tokenizer(texts, args.vocab_size, args.algorithm, args.special_tokens), {}
    tokenizer, pieces = add_special_tokens(tokenizer, args.special_tokens)
    if args.new_tokens:
        tokenizer, learned = extend_vocabulary(tokenizer, texts, args.new_tokens)
        logger.info(f"{len(learned):,} tokens learned, of `--new_tokens` {args.new_tokens:,}")
        pieces |= learned
    if not pieces:
        raise ValueError(
            f"nothing is to be added to `{tokenizer.name_or_path}`: it has all `--special_tokens`, and no pair of "
            "tokens occurs twice in the text"
        )
    return tokenizer, pieces


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, algorithm: str = "bpe", special_tokens: Iterable[str] = ()
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE or Unigram. It encodes any text without an unknown token, and decodes it exactly.

    It puts `<|bos|>` before every document, so that the first token of the text is predicted too. The end of text and
    the padding are different tokens: masking the padding in the labels does not mask the end of a document.

    Args:
        algorithm: `bpe` or `unigram`.
        special_tokens: further ones, which are part of `vocab_size`. `<|mask|>` becomes the mask token.

    Raises:
        ValueError: `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    special = [BOS, EOS, PAD, *special_tokens]
    if vocab_size < 256 + len(special):
        raise ValueError(
            f"`--vocab_size` {vocab_size} is below {256 + len(special)}: 256 bytes and {len(special)} special tokens "
            "need room"
        )
    model, trainer = MODELS[algorithm]
    tokenizer = Tokenizer(model())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    settings = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    tokenizer.train_from_iterator(texts, trainer(vocab_size=vocab_size, special_tokens=special, **settings))
    if (entries := tokenizer.get_vocab_size()) < vocab_size:
        logger.warning(f"The vocabulary has only {entries:,} entries: `--vocab_size` {vocab_size:,} needs more text")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD} | ({"mask_token": MASK} if MASK in special else {})
    return add_special_tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles), special_tokens)[0]


def add_special_tokens(
    tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str]
) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """Return a copy with more special tokens, which text is never encoded as; `<|mask|>` becomes its mask token.

    Returns:
        The tokenizer, and for each new id the ids as which its text was encoded before.
    """
    tokenizer = copy.deepcopy(tokenizer)
    new = [token for token in tokens if token not in tokenizer.get_vocab()]
    spelled = [tokenizer(token, add_special_tokens=False).input_ids for token in new]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    if MASK in new and tokenizer.mask_token is None:
        tokenizer.mask_token = MASK
    vocab = tokenizer.get_vocab()
    return tokenizer, {vocab[token]: ids for token, ids in zip(new, spelled, strict=True)}


def extend_vocabulary(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], new_tokens: int
) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """Continue the training of a BPE: its tokens are merged into new ones, the most frequent pairs first.

    The new merges come after the old ones, so text in which none of them applies keeps its ids. If the vocabulary
    consists of characters (SentencePiece), those that it lacks become tokens first.

    Args:
        texts: in the language that should need fewer tokens.
        new_tokens: at most; fewer are added if no more pairs occur twice in the texts.

    Returns:
        A new tokenizer, and for each new id the old ids that it replaces.

    Raises:
        ValueError: the tokenizer is not a BPE.
    """
    characters = missing_characters(tokenizer, texts, new_tokens)
    extended = with_entries(tokenizer, characters, [])
    left = new_tokens - len(characters)
    token_of = {id: token for token, id in definition_of(extended)["model"]["vocab"].items()}
    known, joined, merges = set(token_of.values()), {}, []
    for pair in learn_merges(extended, texts, int(EXTRA_MERGES * left) + 10):
        strings = ["".join(token_of[id] for id in side) for side in pair]
        token = "".join(strings)
        if token not in known | joined.keys():
            if len(joined) == left:
                break
            joined[token] = [id for side in pair for id in side]
        merges.append(strings)
    first, spelled = len(tokenizer), [byte_ids(tokenizer, character) for character in characters]
    for ids in joined.values():
        spelled.append([old for id in ids for old in ([id] if id < first else spelled[id - first])])
    return with_entries(extended, list(joined), merges), dict(enumerate(spelled, first))


def definition_of(tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return the contents of the tokenizer.json of a BPE.

    Raises:
        ValueError: the tokenizer is not a BPE.
    """
    definition = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {"type": "slow"}}
    if (kind := definition["model"]["type"]) != "BPE":
        raise ValueError(
            f"`--new_tokens`: tokenizer `{tokenizer.name_or_path}` is a {kind} model, and only a BPE can be "
            "extended: train a new one without `--new_tokens`"
        )
    return definition


def missing_characters(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> list[str]:
    """Return the characters that the vocabulary of a BPE lacks, the most frequent first; a byte-level one lacks none.

    The rarest characters, the last `1 - COVERAGE` of the text, are not returned.
    """
    if is_byte_level(tokenizer):
        return []
    vocab = definition_of(tokenizer)["model"]["vocab"]
    normalizer, counts = tokenizer.backend_tokenizer.normalizer, Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text) if normalizer else text)
    left, missing = (1 - COVERAGE) * counts.total(), []
    for character, number in reversed(counts.most_common()):  # the rarest first
        left -= number
        if left < 0 and number > 1 and character not in vocab:
            missing.append(character)
    return missing[::-1][:limit]


def byte_ids(tokenizer: PreTrainedTokenizerBase, character: str) -> list[int]:
    """Return how a vocabulary of characters encodes one that it lacks: ids of its bytes, or of the unknown token."""
    tokens = [f"<0x{byte:02X}>" for byte in character.encode()]
    return tokenizer.convert_tokens_to_ids(tokens)  # pyright: ignore[reportReturnType]  # of a list it is a list


def with_entries(
    tokenizer: PreTrainedTokenizerBase, entries: list[str], merges: list[list[str]]
) -> PreTrainedTokenizerBase:
    """Return a copy with more entries and merges, after the old ones."""
    definition, first = definition_of(tokenizer), len(tokenizer)
    for added in definition["added_tokens"]:  # a vocabulary may have no holes
        definition["model"]["vocab"].setdefault(added["content"], added["id"])
    definition["model"]["vocab"].update((entry, id) for id, entry in enumerate(entries, first))
    definition["model"]["merges"] += merges
    extended = copy.deepcopy(tokenizer)
    extended._tokenizer = Tokenizer.from_str(json.dumps(definition))
    return extended


def learn_merges(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], number: int
) -> list[tuple[list[int], list[int]]]:
    """Learn which pairs of tokens a BPE merges next.

    Returns:
        The ids of both sides of each pair, in the order of the merges.

    The trainer of `tokenizers` cannot start with existing merges. So each token of the texts is written as one
    character, and the trainer merges characters.
    """
    learning = Tokenizer(models.BPE())
    learning.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    alphabet = [chr(FIRST_CHARACTER + id) for id in range(len(tokenizer))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + number,
        initial_alphabet=alphabet,
        min_frequency=2,
        max_token_length=MAX_PIECES,
        show_progress=False,
    )
    learning.train_from_iterator(words_as_characters(tokenizer, texts), trainer)
    merges = json.loads(learning.to_str())["model"]["merges"]
    ids = [[[ord(character) - FIRST_CHARACTER for character in side] for side in pair] for pair in merges]
    return [(left, right) for left, right in ids]


def words_as_characters(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[str]:
    """Yield texts with one character for each token, and a space between those that must not be merged."""
    backend = tokenizer.backend_tokenizer
    character_of = FIRST_CHARACTER + np.arange(len(tokenizer))
    character_of[list(tokenizer.added_tokens_decoder)] = ord(" ")  # special tokens
    begins_word, is_mark = np.zeros((2, len(tokenizer)), bool)
    if not is_byte_level(tokenizer):  # no words: a space begins one, punctuation is separate
        for token, id in tokenizer.get_vocab().items():
            begins_word[id], is_mark[id] = token.startswith(SPACE), not WORD_PATTERN.search(token.replace(SPACE, "a"))
            if BYTE.fullmatch(token):  # of a character without a token: it could not be decoded from a longer token
                character_of[id] = ord(" ")
    for start in range(0, len(texts), BATCH_TEXTS):
        for encoding in backend.encode_batch(texts[start : start + BATCH_TEXTS], add_special_tokens=False):
            ids, words = np.array(encoding.ids, np.int64), np.array(encoding.word_ids, float)
            begins = begins_word[ids] | is_mark[ids] | (np.diff(words, prepend=-1) != 0)
            begins[1:] |= is_mark[ids[:-1]]
            characters = np.insert(character_of[ids], np.flatnonzero(begins), ord(" "))
            yield characters.astype(np.uint32).tobytes().decode("utf-32-le")


def measure_fertility(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, float]:
    """Measure how many tokens the characters and the words of texts take.

    Returns:
        `tokens_per_character`; `tokens_per_word`, where a character of a script without spaces counts as a word; and
        `unknown_characters`, the number of those that are not in the vocabulary: several of them may be one token.
    """
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    tokens, characters = sum(map(len, ids)), Counter()
    for text in texts:
        characters.update(text)
    single = tokenizer(list(characters), add_special_tokens=False, split_special_tokens=True).input_ids
    unknown = None if is_byte_level(tokenizer) else tokenizer.unk_token_id
    return {
        "tokens_per_character": tokens / characters.total(),
        "tokens_per_word": tokens / max(1, sum(len(segment_words(text)) for text in texts)),
        "unknown_characters": sum(n for n, ids in zip(characters.values(), single, strict=True) if unknown in ids),
    }


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokens consist of bytes, as those of GPT-2, so that the tokenizer knows any text."""
    backend = tokenizer.backend_tokenizer
    return "ByteLevel" in f"{backend.pre_tokenizer!r} {backend.decoder!r}"


def save_vocabulary(
    folder: Path,
    texts: Sequence[str],
    before: PreTrainedTokenizerBase | None,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | None,
) -> dict[str, float]:
    """Save a tokenizer, its model if there is one, and what held-out texts cost with it, in `eval_results.json`.

    Args:
        folder: appears complete or not at all.
        before: the tokenizer that was extended.

    Returns:
        The figures of `measure_fertility`, and as `..._before` those of the tokenizer before.
    """
    figures = measure_fertility(tokenizer, texts)
    if before is not None:
        figures |= {f"{name}_before": value for name, value in measure_fertility(before, texts).items()}
    with atomic_folder(folder) as unfinished:
        tokenizer.save_pretrained(unfinished)
        if model is not None:
            model.save_pretrained(unfinished)
        write_json(unfinished / "eval_results.json", {f"eval_{name}": value for name, value in figures.items()})
    return figures
