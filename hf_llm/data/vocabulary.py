"""Vocabularies: a new one learned from text, or the one of a tokenizer that goes on learning on another language."""

import copy
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_llm.arguments import TokenizerArguments
from hf_llm.metrics.segmentation import WORD_PATTERN, segment_words

logger = logging.getLogger(__name__)

BOS, EOS, PAD, MASK = "<|bos|>", "<|eos|>", "<|pad|>", "<|mask|>"
MODELS = {  # each with its trainer
    "bpe": (models.BPE, trainers.BpeTrainer),
    "unigram": (models.Unigram, trainers.UnigramTrainer),
}
BATCH = 1000  # texts that are encoded together
# While merges are learned each known token is one character, its id from here on: no surrogate, no space.
FIRST_CHARACTER = 0x10000
SPARE = 1.1  # of the merges asked for: some give a token that is there already
SPACE = "\u2581"  # as SentencePiece writes it
BYTE = re.compile("<0x[0-9A-F]{2}>")
COVERAGE = 0.9995  # of the characters, as SentencePiece
LONGEST = 16  # known tokens in a new one


def train_or_extend(
    args: TokenizerArguments, tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """A new tokenizer, or `tokenizer` extended; of each new id the old ids that it replaces.

    Raises:
        ValueError: there is nothing to add.
    """
    if tokenizer is None:
        return train_tokenizer(texts, args.vocab_size, args.algorithm, args.special_tokens), {}
    tokenizer, pieces = add_special_tokens(tokenizer, args.special_tokens)
    if args.new_tokens:
        tokenizer, learned = extend_vocabulary(tokenizer, texts, args.new_tokens)
        logger.info(f"{len(learned):,} tokens learned of the {args.new_tokens:,} that were asked for")
        pieces |= learned
    if not pieces:
        raise ValueError(
            f"nothing is to be added to `{tokenizer.name_or_path}`: it has all `--special_tokens`, and in the text no "
            "pair of tokens occurs twice"
        )
    return tokenizer, pieces


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, algorithm: str = "bpe", special_tokens: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE or Unigram: any text is encoded without an unknown token, and decodes to itself.

    Every document is opened by `<|bos|>`, so that its first real token has a context to be predicted from. The end
    and the padding have tokens of their own: masking the padding never hides the end of a document.

    Args:
        algorithm: `bpe` or `unigram`.
        special_tokens: further ones; they are part of `vocab_size`. Of these `<|mask|>` is known as the mask.

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
        logger.warning(f"The text has no more than {entries:,} entries: `--vocab_size` {vocab_size:,} needs more of it")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD} | ({"mask_token": MASK} if MASK in special else {})
    return add_special_tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles), special_tokens)[0]


def add_special_tokens(
    tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str]
) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """A copy with tokens that text never turns into; those that are there already stay.

    Returns:
        The tokenizer, and of each new id the ids that spelled it before.
    """
    tokenizer = copy.deepcopy(tokenizer)
    new = [token for token in tokens if token not in tokenizer.get_vocab()]
    spelled = [tokenizer(token, add_special_tokens=False).input_ids for token in new]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    return tokenizer, dict(zip(tokenizer.convert_tokens_to_ids(new), spelled, strict=True))


def extend_vocabulary(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], new_tokens: int
) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """Let a BPE go on learning where it was left: its tokens are joined to new ones, most frequent pairs first.

    The new merges come after the old ones, so text in which none of them occurs keeps its ids. Characters that a
    vocabulary of whole characters lacks (SentencePiece, with bytes to fall back on) become tokens first.

    Args:
        texts: of the language that is to need fewer tokens.
        new_tokens: at most; fewer where the text has no more pairs that occur twice.

    Returns:
        A new tokenizer, and of each new id the old ids that it replaces.

    Raises:
        ValueError: the tokenizer is no BPE.
    """
    characters = missing_characters(tokenizer, texts, new_tokens)
    grown = with_entries(tokenizer, characters, [])
    left = new_tokens - len(characters)
    token_of = {id: token for token, id in definition_of(grown)["model"]["vocab"].items()}
    known, joined, merges = set(token_of.values()), {}, []
    for pair in learn_merges(grown, texts, int(SPARE * left) + 10):
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
    return with_entries(grown, list(joined), merges), dict(enumerate(spelled, first))


def definition_of(tokenizer: PreTrainedTokenizerBase) -> dict:
    """The contents of its tokenizer.json, where it is a BPE.

    Raises:
        ValueError: it is none.
    """
    definition = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {"type": "slow"}}
    if (kind := definition["model"]["type"]) != "BPE":
        raise ValueError(
            f"`--new_tokens`: tokenizer `{tokenizer.name_or_path}` is a {kind} model, and only a BPE can go on "
            "learning: train a new one without `--new_tokens`"
        )
    return definition


def missing_characters(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> list[str]:
    """Characters that a BPE of characters does not have, the most frequent first; one of bytes has them all.

    The rarest are left out: without them the others make up `COVERAGE` of the text.
    """
    if not spells_unknown(tokenizer):
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
    """What a vocabulary of characters falls back on: ids of bytes, or of the unknown token."""
    return tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in character.encode()])


def with_entries(
    tokenizer: PreTrainedTokenizerBase, entries: list[str], merges: list[list[str]]
) -> PreTrainedTokenizerBase:
    """A copy with more entries and merges, behind the old ones."""
    definition, first = definition_of(tokenizer), len(tokenizer)
    for added in definition["added_tokens"]:  # a vocabulary may have no holes
        definition["model"]["vocab"].setdefault(added["content"], added["id"])
    definition["model"]["vocab"].update((entry, id) for id, entry in enumerate(entries, first))
    definition["model"]["merges"] += merges
    grown = copy.deepcopy(tokenizer)
    grown._tokenizer = Tokenizer.from_str(json.dumps(definition))
    return grown


def learn_merges(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], number: int
) -> list[tuple[list[int], list[int]]]:
    """Pairs of tokens to be joined next, as the ids of both sides, in the order in which BPE finds them.

    The trainer of `tokenizers` cannot begin with merges that are there. Here each token of the texts is one character
    for it, so that it begins where they end.
    """
    learning = Tokenizer(models.BPE())
    learning.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    alphabet = [chr(FIRST_CHARACTER + id) for id in range(len(tokenizer))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + number,
        initial_alphabet=alphabet,
        min_frequency=2,
        max_token_length=LONGEST,
        show_progress=False,
    )
    learning.train_from_iterator(words_as_characters(tokenizer, texts), trainer)
    merges = json.loads(learning.to_str())["model"]["merges"]
    return [tuple([ord(character) - FIRST_CHARACTER for character in side] for side in pair) for pair in merges]


def words_as_characters(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[str]:
    """Texts with a character for each token, and a space between what no merge may join."""
    backend = tokenizer.backend_tokenizer
    character_of = FIRST_CHARACTER + np.arange(len(tokenizer))
    character_of[list(tokenizer.added_tokens_decoder)] = ord(" ")  # an unknown one, or one spelled out
    opens, alone = np.zeros((2, len(tokenizer)), bool)
    if spells_unknown(tokenizer):  # SentencePiece has no words: a space opens one, and marks stand between them
        for token, id in tokenizer.get_vocab().items():
            opens[id], alone[id] = token.startswith(SPACE), not WORD_PATTERN.search(token.replace(SPACE, "a"))
            if BYTE.fullmatch(token):  # of a character that has no token: it could not be read back from a longer one
                character_of[id] = ord(" ")
    for start in range(0, len(texts), BATCH):
        for encoding in backend.encode_batch(texts[start : start + BATCH], add_special_tokens=False):
            ids, words = np.array(encoding.ids, np.int64), np.array(encoding.word_ids, float)
            begins = opens[ids] | alone[ids] | (np.diff(words, prepend=-1) != 0)
            begins[1:] |= alone[ids[:-1]]
            characters = np.insert(character_of[ids], np.flatnonzero(begins), ord(" "))
            yield characters.astype(np.uint32).tobytes().decode("utf-32-le")


def measure_fertility(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, float]:
    """Tokens that a character and a word of the texts take; where a script has no spaces a character is a word.

    Beside them the characters that the vocabulary does not know: many of them in a row are one token.
    """
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    tokens, characters = sum(map(len, ids)), Counter()
    for text in texts:
        characters.update(text)
    alone = tokenizer(list(characters), add_special_tokens=False, split_special_tokens=True).input_ids
    unknown = tokenizer.unk_token_id if spells_unknown(tokenizer) else None
    return {
        "tokens_per_character": tokens / characters.total(),
        "tokens_per_word": tokens / max(1, sum(len(segment_words(text)) for text in texts)),
        "unknown_characters": sum(n for n, ids in zip(characters.values(), alone, strict=True) if unknown in ids),
    }


def spells_unknown(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether text may become the unknown token or bytes; what GPT-2 knows of is bytes, and never unknown."""
    backend = tokenizer.backend_tokenizer
    return "ByteLevel" not in f"{backend.pre_tokenizer!r} {backend.decoder!r}"
