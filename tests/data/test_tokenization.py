"""Text is encoded as the tokenizer's own ids by both engines; special tokens that occur in it are text."""

import logging

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hf_llm.data import tokenization
from hf_llm.data.tokenization import fastokens_engine, select_engine, tokenize, tokenizer_engine, verify_calls
from hf_llm.data.vocabulary import train_tokenizer

TRICKY = [
    "plain words, and a number 12345.67",
    " leading and trailing spaces  \n\n\tand tabs ",
    "naïve café, Ünïcödé, e\u0301 decomposed",
    "汉字与日本語と한국어",
    "🙂👩‍👩‍👧‍👦 🇩🇪 astral \U0001d518",
    "zero\u200bwidth, right\u200fto left: العربية, nul \x00 and \x7f",
    "don't we've I'LL",
    "a" * 300,
    "x",
    "\r\n\r\n",
    "spelled out: <|bos|> <|eos|><|pad|> <|endoftext|>",
    "",
]
CORPUS = [*TRICKY, *(f"the quick brown fox number {i} jumps over the lazy dog" for i in range(50))]


def gpt2_like(prefix=None, suffix=None, **special):
    """A byte-level BPE like that of GPT-2; with `prefix` or `suffix` it adds <|endoftext|> there by itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if prefix or suffix:
        template = " ".join(filter(None, ["<|endoftext|>" if prefix else "", "$A", "<|endoftext|>" if suffix else ""]))
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<|endoftext|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **({"eos_token": "<|endoftext|>"} | special))


def digits_apart():
    """A newer kind of tokenizer: NFC, single digits, an end of text by itself."""
    tokenizer = gpt2_like(suffix=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


KINDS = {
    "new": lambda: train_tokenizer(CORPUS, 400),
    "gpt2": gpt2_like,
    "begins with eos": lambda: gpt2_like(prefix=True),
    "ends with eos": lambda: gpt2_like(suffix=True),
    "digits apart": digits_apart,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    """Kinds of tokenizers that users have."""
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def new():
    return KINDS["new"]()


def ids_of(texts, tokenizer):
    return [
        ids.tolist()
        for ids in tokenize(Dataset.from_dict({"text": texts}), tokenizer).with_format("numpy")[:]["input_ids"]
    ]


def test_documents_are_the_tokenizers_own_ids_and_end_with_eos(tokenizer):
    """With one end of text, also if the tokenizer adds it; special tokens that occur in a text are text."""
    own = [tokenizer(text, split_special_tokens=True).input_ids for text in TRICKY]
    eos = tokenizer.eos_token_id
    ends_itself = tokenizer("x").input_ids[-1] == eos
    assert ids_of(TRICKY, tokenizer) == [ids if ends_itself else [*ids, eos] for ids in own]


def test_special_tokens_spelled_in_a_document_are_text(new):
    """They decode to the text of the document, and do not have the ids of special tokens."""
    (ids,) = ids_of(["say <|eos|> and <|pad|>"], new)
    assert ids[0] == new.bos_token_id and ids[-1] == new.eos_token_id
    assert not {new.bos_token_id, new.eos_token_id, new.pad_token_id} & set(ids[1:-1])
    assert new.decode(ids[1:-1]) == "say <|eos|> and <|pad|>"


@pytest.mark.parametrize("split_special_tokens", [True, False])
def test_the_fast_engine_equals_the_tokenizer(tokenizer, split_special_tokens):
    """Ids and offsets, on difficult texts; special tokens in them are text, or tokens."""
    pytest.importorskip("fastokens")
    texts = [*TRICKY, *(f"{tokenizer.eos_token}{text} {tokenizer.eos_token}\n" for text in TRICKY)]
    engines = [make(tokenizer, False, split_special_tokens) for make in (fastokens_engine, tokenizer_engine)]
    (fast, fast_offsets), (plain, plain_offsets) = (encode(texts) for encode in engines)
    assert np.array_equal(fast, plain) and np.array_equal(fast_offsets, plain_offsets)
    assert (tokenizer.eos_token_id in plain) != split_special_tokens


def wrong_ids(tokenizer, *options):
    encode = tokenizer_engine(tokenizer)
    return lambda texts: (encode(texts)[0] + 1, encode(texts)[1])


def wrong_offsets(tokenizer, *options):
    encode = tokenizer_engine(tokenizer)
    return lambda texts: (encode(texts)[0], encode(texts)[1] * 0)


def fails_to_build(tokenizer, *options):
    raise ImportError("No module named 'fastokens'")


def fails_to_encode(tokenizer, *options):
    def encode(texts):
        raise RuntimeError("unknown pre-tokenizer")

    return encode


@pytest.mark.parametrize("engine", [wrong_ids, wrong_offsets, fails_to_build, fails_to_encode])
def test_an_engine_that_fails_or_differs_is_not_used(new, engine, monkeypatch, caplog):
    """The tokenizer encodes instead, and the log says so."""
    expected = ids_of(TRICKY, new)
    monkeypatch.setattr(tokenization, "fastokens_engine", engine)
    with caplog.at_level(logging.INFO, "hf_llm"):
        name, encode = select_engine(new, TRICKY)
        assert ids_of(TRICKY, new) == expected
    assert name == "tokenizers" and np.array_equal(encode(TRICKY)[0], tokenizer_engine(new)(TRICKY)[0])
    assert "Tokenizer engine: the tokenizer itself" in caplog.text


@pytest.mark.parametrize("engine", [wrong_ids, tokenizer_engine])
def test_in_a_stream_the_fast_engine_is_compared_on_every_block(new, engine, caplog):
    """Text in another language may come later; if ids differ, the tokenizer encodes that block."""
    plain = tokenizer_engine(new)
    with caplog.at_level(logging.WARNING, "hf_llm"):
        ids, offsets = verify_calls(engine(new), plain)(TRICKY * 3)
    assert np.array_equal(ids, plain(TRICKY * 3)[0]) and np.array_equal(offsets, plain(TRICKY * 3)[1])
    assert ("fastokens gave other ids" in caplog.text) == (engine is wrong_ids)


def test_the_log_names_the_fast_engine_where_it_is_used(new, caplog):
    """With the number of documents on which it was compared; a user reads only of problems."""
    pytest.importorskip("fastokens")
    with caplog.at_level(logging.DEBUG, "hf_llm"):
        assert select_engine(new, TRICKY)[0] == "fastokens"
    assert f"fastokens, whose ids on {len(TRICKY)} documents of this text equal the tokenizer's" in caplog.text


def test_a_tokenizer_without_end_of_text_is_refused():
    """A model that is trained without ends of texts does not stop generating."""
    with pytest.raises(ValueError, match="has no eos token: give another `--tokenizer_name`"):
        ids_of(["text"], gpt2_like(eos_token=None))


def test_text_that_the_tokenizer_lacks_is_counted(caplog):
    """It becomes the unknown token, and nothing else would show that it is lost; GPT-2's, which ends texts, is none."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "one": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    tokenize(Dataset.from_dict({"text": ["one two", "one"]}), tokenizer)
    assert "1 of 5 tokens are `<unk>`" in caplog.text
    caplog.clear()
    tokenizer.eos_token = "<unk>"
    tokenize(Dataset.from_dict({"text": ["one two"]}), tokenizer)
    assert "<unk>" not in caplog.text
