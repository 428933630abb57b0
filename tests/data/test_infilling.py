"""Fill-in-the-middle as it was published: every text whole, its parts in one of two orders, as often as was asked."""

import numpy as np
import pytest
from datasets import Dataset
from test_tokenization import gpt2_like
from test_vocabulary import sentencepiece_like

from hf_llm.data.infilling import SENTINELS, FillInTheMiddle, infill, infilling_prompts, sentinels
from hf_llm.data.tokenization import append_token, fast_engine, plain_engine
from hf_llm.data.vocabulary import add_special_tokens, train_tokenizer

TEXTS = [f"Document {i} counts {' '.join(str(n) for n in range(i % 9))}, é 天 🙂 then it ends." for i in range(400)]
LONG = " ".join(TEXTS[:40])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, special_tokens=SENTINELS[0])


def laid_out(tokenizer, texts, max_length=100, rate=1.0, spm_rate=0.5, engine=plain_engine):
    """Documents of token ids and the place of each one's layout."""
    lay_out = FillInTheMiddle(tokenizer, engine(tokenizer, False), max_length, rate, spm_rate)
    ids, offsets, layouts, _ = lay_out(texts, np.random.default_rng(0))
    return [part.tolist() for part in np.split(ids, offsets[1:-1])], layouts.tolist()


def parts_of(document, tokenizer):
    """Prefix, middle and suffix as ids, and whether the suffix comes first, read by the published definition."""
    prefix, suffix, middle = sentinels(tokenizer)
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    assert document[: len(begin)] == begin and document[-1:] == end
    inner = document[1:-1]
    for sentinel in (prefix, suffix, middle):
        assert inner.count(sentinel) == 1
    assert inner[0] == prefix
    before, after = inner[1 : inner.index(middle)], inner[inner.index(middle) + 1 :]
    place = before.index(suffix)
    return before[:place], after, before[place + 1 :]


def test_psm_has_prefix_suffix_middle_each_encoded_by_itself(tokenizer):
    """`<prefix> prefix <suffix> suffix <middle> middle <end>`; together they are the text."""
    documents, layouts = laid_out(tokenizer, TEXTS, spm_rate=0.0)
    assert set(layouts) == {1}
    for text, document in zip(TEXTS, documents, strict=True):
        prefix, middle, suffix = (tokenizer.decode(ids) for ids in parts_of(document, tokenizer))
        assert prefix + middle + suffix == text
        for ids in parts_of(document, tokenizer):
            assert ids == tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids


def test_a_middle_is_asked_for_as_it_was_trained(tokenizer):
    """The prompt is a document of PSM up to its middle; a token that is spelled out in it is text."""
    spelled = [*TEXTS[:50], "a <|fim_middle|> b <|eos|> c"]
    documents, _ = laid_out(tokenizer, spelled, spm_rate=0.0)
    prefixes, middles, suffixes = zip(*(parts_of(document, tokenizer) for document in documents), strict=True)
    texts = ([tokenizer.decode(ids) for ids in parts] for parts in (prefixes, suffixes))
    for document, prompt, middle in zip(documents, infilling_prompts(tokenizer, *texts), middles, strict=True):
        assert document == [*prompt, *middle, tokenizer.eos_token_id]


def test_spm_has_suffix_first_and_the_middle_behind_its_prefix(tokenizer):
    """`<prefix> <suffix> suffix <middle> prefix middle <end>`."""
    documents, layouts = laid_out(tokenizer, TEXTS, spm_rate=1.0)
    assert set(layouts) == {2}
    for text, document in zip(TEXTS, documents, strict=True):
        nothing, prefix_and_middle, suffix = parts_of(document, tokenizer)
        assert nothing == []
        assert tokenizer.decode(prefix_and_middle) + tokenizer.decode(suffix) == text


def test_places_are_drawn_evenly_among_the_characters(tokenizer):
    """Also inside a word: of two even draws the lower has mean 1/3, the higher 2/3."""
    documents, _ = laid_out(tokenizer, TEXTS, spm_rate=0.0)
    lengths = [[len(tokenizer.decode(ids)) for ids in parts_of(document, tokenizer)] for document in documents]
    shares = np.array([[prefix, prefix + middle] for prefix, middle, _ in lengths]) / np.sum(lengths, 1)[:, None]
    assert np.allclose(shares.mean(0), [1 / 3, 2 / 3], atol=0.05)
    cut_words = sum(
        tokenizer.decode(parts_of(document, tokenizer)[0])[-1:].isalpha()
        and tokenizer.decode(parts_of(document, tokenizer)[1])[:1].isalpha()
        for document in documents
    )
    assert cut_words > 50


@pytest.mark.parametrize(("rate", "spm_rate"), [(0.0, 0.5), (0.5, 0.5), (0.9, 0.2)])
def test_rates_are_those_that_were_asked_for(tokenizer, rate, spm_rate):
    """Within what chance allows for 400 texts."""
    documents, layouts = laid_out(tokenizer, TEXTS, rate=rate, spm_rate=spm_rate)
    causal, psm, spm, _ = np.bincount(layouts, minlength=4) / len(TEXTS)
    assert causal == pytest.approx(1 - rate, abs=0.08)
    assert spm == pytest.approx(rate * spm_rate, abs=0.08)
    assert psm == pytest.approx(rate * (1 - spm_rate), abs=0.08)
    own = plain_engine(tokenizer)(TEXTS)
    ids, offsets = append_token(*own, tokenizer.eos_token_id)
    for document, whole, layout in zip(documents, np.split(ids, offsets[1:-1]), layouts, strict=True):
        assert (document == whole.tolist()) == (layout == 0)


def test_long_texts_are_cut_first_so_that_each_middle_keeps_its_context(tokenizer):
    """Each piece fits in a row; one after the other they are the text."""
    for rate in (0.0, 0.5, 1.0):
        documents, layouts = laid_out(tokenizer, [LONG], max_length=64, rate=rate, spm_rate=0.0)
        assert len(documents) > 10 and max(map(len, documents)) <= 64
        texts = [
            "".join(map(tokenizer.decode, parts_of(document, tokenizer)))
            if layout
            else tokenizer.decode(document, skip_special_tokens=True)
            for document, layout in zip(documents, layouts, strict=True)
        ]
        assert "".join(texts) == LONG


def test_a_text_that_would_not_fit_in_a_row_stays_as_it_was(tokenizer):
    """Parting makes more tokens of it; nothing is cut off, and it is counted."""
    unknown = "".join(f"{i}" for i in range(30))
    size = len(tokenizer(unknown, add_special_tokens=False).input_ids)
    lay_out = FillInTheMiddle(tokenizer, plain_engine(tokenizer, False), size + 13, 1.0, 0.5)
    lay_out.room = size - 1
    (document, layout) = lay_out.lay_out([np.arange(size)] * 3, unknown, True, True, np.random.default_rng(0))
    assert layout == 3
    assert document.tolist() == [*tokenizer(unknown).input_ids, tokenizer.eos_token_id]


def test_the_fast_engine_gives_the_same_documents(tokenizer):
    """Parts may be empty."""
    pytest.importorskip("fastokens")
    texts = ["", "a", *TEXTS[:50], LONG]
    assert laid_out(tokenizer, texts) == laid_out(tokenizer, texts, engine=fast_engine)


def test_a_data_set_is_laid_out_the_same_each_time_and_counted(tokenizer):
    """By the seed; the counts are the same where the result comes from the cache."""
    dataset = Dataset.from_dict({"text": [*TEXTS, LONG]})
    runs = [infill(dataset, tokenizer, 64, 0.5, 0.5, seed) for seed in (1, 1, 2)]
    (first, report), (again, same), (other, _) = runs
    assert first["input_ids"][:] == again["input_ids"][:] != other["input_ids"][:]
    assert report == same and sum(count for name, count in report.counts.items() if "fim" in name) == len(first)
    assert (report.counts["documents"], report.counts["documents_cut"]) == (len(TEXTS) + 1, 1)
    assert report.metrics("train")["train_fim_psm"] > 100


def test_known_sentinels_are_found_and_a_tokenizer_without_is_refused():
    """The message has the command that adds them."""
    starcoder, _ = add_special_tokens(gpt2_like(), SENTINELS[1])
    assert sentinels(starcoder) == starcoder.convert_tokens_to_ids(list(SENTINELS[1]))
    with pytest.raises(ValueError, match=r"train_tokenizer.py --model_name_or_path .* '<\|fim_prefix\|>'"):
        sentinels(gpt2_like())


def test_a_tokenizer_that_writes_spaces_before_parts_is_refused():
    """It would put a space where the text has none."""
    spaced, _ = add_special_tokens(sentencepiece_like(True), SENTINELS[0])
    with pytest.raises(ValueError, match="makes 'ab cd' of 'ab' and 'cd'"):
        sentinels(spaced)
