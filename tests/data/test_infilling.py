"""Fill-in-the-middle as published: no text is lost, its parts are in one of two orders, at the rates that were set."""

import numpy as np
import pytest
from datasets import Dataset
from test_tokenization import gpt2_like
from test_vocabulary import sentencepiece_like

from hf_llm.data.infilling import SENTINELS, FillInTheMiddle, infilling_prompts, sentinel_ids, tokenize_for_infilling
from hf_llm.data.tokenization import append_token, fastokens_engine, tokenizer_engine
from hf_llm.data.vocabulary import add_special_tokens, train_tokenizer

TEXTS = [f"Document {i} counts {' '.join(str(n) for n in range(i % 9))}, é 天 🙂 then it ends." for i in range(400)]
LONG = " ".join(TEXTS[:40])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, special_tokens=SENTINELS[0])


def make_documents(tokenizer, texts, max_length=100, rate=1.0, spm_rate=0.5, engine=tokenizer_engine):
    """Documents of token ids, and the index of each one's layout."""
    fill_in_the_middle = FillInTheMiddle(tokenizer, engine(tokenizer, False), max_length, rate, spm_rate)
    ids, offsets, layouts, _ = fill_in_the_middle(texts, np.random.default_rng(0))
    return [part.tolist() for part in np.split(ids, offsets[1:-1])], layouts.tolist()


def parts_of(document, tokenizer):
    """Token ids of prefix, middle and suffix, read from a document by the published definition."""
    prefix, suffix, middle = sentinel_ids(tokenizer)
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    assert document[: len(begin)] == begin and document[-1:] == end
    inner = document[1:-1]
    for sentinel in (prefix, suffix, middle):
        assert inner.count(sentinel) == 1
    assert inner[0] == prefix
    before, after = inner[1 : inner.index(middle)], inner[inner.index(middle) + 1 :]
    border = before.index(suffix)
    return before[:border], after, before[border + 1 :]


def test_psm_has_prefix_suffix_middle_each_encoded_by_itself(tokenizer):
    """`<prefix> prefix <suffix> suffix <middle> middle <end>`; together they are the text."""
    documents, layouts = make_documents(tokenizer, TEXTS, spm_rate=0.0)
    assert set(layouts) == {1}
    for text, document in zip(TEXTS, documents, strict=True):
        prefix, middle, suffix = (tokenizer.decode(ids) for ids in parts_of(document, tokenizer))
        assert prefix + middle + suffix == text
        for ids in parts_of(document, tokenizer):
            assert ids == tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids


def test_a_prompt_for_the_middle_is_a_training_document_up_to_its_middle(tokenizer):
    """With the layout PSM; a sentinel that is spelled out in a text is tokenized as text."""
    spelled = [*TEXTS[:50], "a <|fim_middle|> b <|eos|> c"]
    documents, _ = make_documents(tokenizer, spelled, spm_rate=0.0)
    prefixes, middles, suffixes = zip(*(parts_of(document, tokenizer) for document in documents), strict=True)
    texts = ([tokenizer.decode(ids) for ids in parts] for parts in (prefixes, suffixes))
    for document, prompt, middle in zip(documents, infilling_prompts(tokenizer, *texts), middles, strict=True):
        assert document == [*prompt, *middle, tokenizer.eos_token_id]


def test_spm_has_the_suffix_first_and_the_middle_after_the_prefix(tokenizer):
    """`<prefix> <suffix> suffix <middle> prefix middle <end>`."""
    documents, layouts = make_documents(tokenizer, TEXTS, spm_rate=1.0)
    assert set(layouts) == {2}
    for text, document in zip(TEXTS, documents, strict=True):
        nothing, prefix_and_middle, suffix = parts_of(document, tokenizer)
        assert nothing == []
        assert tokenizer.decode(prefix_and_middle) + tokenizer.decode(suffix) == text


def test_texts_are_split_at_uniformly_random_characters(tokenizer):
    """Also within a word: of two uniform draws the lower one has mean 1/3, the higher one 2/3."""
    documents, _ = make_documents(tokenizer, TEXTS, spm_rate=0.0)
    lengths = [[len(tokenizer.decode(ids)) for ids in parts_of(document, tokenizer)] for document in documents]
    shares = np.array([[prefix, prefix + middle] for prefix, middle, _ in lengths]) / np.sum(lengths, 1)[:, None]
    assert np.allclose(shares.mean(0), [1 / 3, 2 / 3], atol=0.05)
    split_words = sum(
        tokenizer.decode(parts_of(document, tokenizer)[0])[-1:].isalpha()
        and tokenizer.decode(parts_of(document, tokenizer)[1])[:1].isalpha()
        for document in documents
    )
    assert split_words > 50


@pytest.mark.parametrize(("rate", "spm_rate"), [(0.0, 0.5), (0.5, 0.5), (0.9, 0.2)])
def test_layouts_have_the_rates_that_were_set(tokenizer, rate, spm_rate):
    """Within the random variation of 400 texts."""
    documents, layouts = make_documents(tokenizer, TEXTS, rate=rate, spm_rate=spm_rate)
    causal, psm, spm, _ = np.bincount(layouts, minlength=4) / len(TEXTS)
    assert causal == pytest.approx(1 - rate, abs=0.08)
    assert spm == pytest.approx(rate * spm_rate, abs=0.08)
    assert psm == pytest.approx(rate * (1 - spm_rate), abs=0.08)
    own = tokenizer_engine(tokenizer)(TEXTS)
    ids, offsets = append_token(*own, tokenizer.eos_token_id)
    for document, whole, layout in zip(documents, np.split(ids, offsets[1:-1]), layouts, strict=True):
        assert (document == whole.tolist()) == (layout == 0)


def test_long_texts_are_cut_first_so_that_each_middle_keeps_its_context(tokenizer):
    """Each piece fits in a row, and the pieces joined are the text."""
    for rate in (0.0, 0.5, 1.0):
        documents, layouts = make_documents(tokenizer, [LONG], max_length=64, rate=rate, spm_rate=0.0)
        assert len(documents) > 10 and max(map(len, documents)) <= 64
        texts = [
            "".join(map(tokenizer.decode, parts_of(document, tokenizer)))
            if layout
            else tokenizer.decode(document, skip_special_tokens=True)
            for document, layout in zip(documents, layouts, strict=True)
        ]
        assert "".join(texts) == LONG


def test_a_text_that_would_not_fit_in_a_row_stays_as_it_was(tokenizer):
    """Split, it would have more tokens; no token is lost, and it is counted as `too_long`."""
    unknown = "".join(f"{i}" for i in range(30))
    size = len(tokenizer(unknown, add_special_tokens=False).input_ids)
    fill_in_the_middle = FillInTheMiddle(tokenizer, tokenizer_engine(tokenizer, False), size + 13, 1.0, 0.5)
    fill_in_the_middle.max_text_tokens = size - 1
    (document, layout) = fill_in_the_middle.build_document(
        [np.arange(size)] * 3, unknown, True, True, np.random.default_rng(0)
    )
    assert layout == 3
    assert document.tolist() == [*tokenizer(unknown).input_ids, tokenizer.eos_token_id]


def test_the_fast_engine_gives_the_same_documents(tokenizer):
    """Also of empty texts and of long ones."""
    pytest.importorskip("fastokens")
    texts = ["", "a", *TEXTS[:50], LONG]
    assert make_documents(tokenizer, texts) == make_documents(tokenizer, texts, engine=fastokens_engine)


def test_a_dataset_gives_the_same_documents_for_the_same_seed_and_is_counted(tokenizer):
    """The counts are the same when the result comes from the cache."""
    dataset = Dataset.from_dict({"text": [*TEXTS, LONG]})
    runs = [tokenize_for_infilling(dataset, tokenizer, 64, 0.5, 0.5, seed) for seed in (1, 1, 2)]
    (first, report), (again, same), (other, _) = runs
    assert first["input_ids"][:] == again["input_ids"][:] != other["input_ids"][:]
    assert report == same and sum(count for name, count in report.counts.items() if "fim" in name) == len(first)
    assert (report.counts["documents"], report.counts["documents_cut"]) == (len(TEXTS) + 1, 1)
    assert report.metrics("train")["train_fim_psm"] > 100


def test_known_sentinels_are_found_and_a_tokenizer_without_them_is_refused():
    """The error shows the command that adds them."""
    starcoder, _ = add_special_tokens(gpt2_like(), SENTINELS[1])
    assert sentinel_ids(starcoder) == starcoder.convert_tokens_to_ids(list(SENTINELS[1]))
    with pytest.raises(ValueError, match=r"train_tokenizer.py --model_name_or_path .* '<\|fim_prefix\|>'"):
        sentinel_ids(gpt2_like())


def test_a_tokenizer_that_adds_spaces_before_parts_is_refused():
    """The documents would have spaces that the text does not have."""
    spaced, _ = add_special_tokens(sentencepiece_like(True), SENTINELS[0])
    with pytest.raises(ValueError, match="makes 'ab cd' of 'ab' and 'cd'"):
        sentinel_ids(spaced)
