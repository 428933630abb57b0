"""Duplicates are those of the definitions, written out here the slow way."""

import itertools
import random

import daft
import numpy as np
import pyarrow as pa
import pytest
from daft import col

from hf_llm.metrics.segmentation import segment_words
from hf_llm.preparation.deduplication import (
    HASHES,
    band_keys,
    bucket_pairs,
    candidate_pairs,
    equal_documents,
    first_of_cluster,
    jaccard,
    near_documents,
    number_of_bands,
    separate_words,
    signature,
)
from hf_llm.preparation.spool import Spool

BANDS, NGRAM = number_of_bands(0.8), 5


def ngrams(text):
    found = segment_words(text)
    pieces = {tuple(found[i : i + NGRAM]) for i in range(max(1, len(found) - NGRAM + 1))}
    return pieces if found else set()


def similarity(a, b):
    a, b = ngrams(a), ngrams(b)
    return len(a & b) / max(len(a | b), 1)


def changed(text, share, rng):
    """The text with a share of its words exchanged."""
    pieces = text.split(" ")
    for place in rng.sample(range(len(pieces)), max(1, round(share * len(pieces)))):
        pieces[place] = f"w{rng.randrange(10**6)}"
    return " ".join(pieces)


@pytest.fixture(scope="module")
def documents():
    """500 texts of 20 to 200 words, some of them planted: the same, 1 %, 5 % and 20 % of the words changed."""
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(2000)}" for _ in range(rng.randrange(20, 200))) for _ in range(400)]
    planted = [changed(rng.choice(texts), share, rng) for share in (0.01, 0.05, 0.2) for _ in range(25)]
    return [*texts, *planted, *rng.sample(texts, 25)]


@pytest.fixture(scope="module")
def alike(documents):
    """Every pair of similarity 0.8 or more, by comparing all of them."""
    sets = [ngrams(text) for text in documents]
    pairs = itertools.combinations(range(len(documents)), 2)
    return {(i, j) for i, j in pairs if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])}


def signatures(texts):
    found = daft.from_pydict({"text": texts}).select(signature(col("text"), NGRAM)).to_arrow()["text"]
    return found.combine_chunks().flatten().to_numpy().reshape(-1, HASHES)


def test_words_are_those_of_the_metrics():
    """The engine's expressions and Python's find the same ones in any script."""
    texts = ["GPT-2 was, in 2019, große_Sache!", "我在2019年用GPT。", "カレーは3人前、々", "हिन्दी में", "ที่นี่ x", "?!", ""]
    found = daft.from_pydict({"text": texts}).select(separate_words(col("text"))).to_pydict()["text"]
    assert found == [" ".join(segment_words(text)) for text in texts]


def test_jaccard_similarity_is_the_definition(documents):
    """Short texts and texts without words among them."""
    texts = [
        *documents[:60],
        *documents[-110:],
        "one two",
        "One, two!",
        "two one",
        "!!!",
        "???",
        "床前明月光",
        "床前明月亮光",
    ]
    pairs = np.array([(i, j) for j in range(len(texts)) for i in range(j)])
    expected = [similarity(texts[i], texts[j]) for i, j in pairs]
    np.testing.assert_array_equal(jaccard(pa.array(texts), pairs, NGRAM), expected)
    assert max(expected) == 1 and 0 < sorted(expected)[-20] < 1


def test_equal_signatures_mean_equal_bands():
    """And other signatures have other bands, whichever hash differs."""
    draw = np.random.default_rng(0)
    found = draw.integers(2**32, size=(50, HASHES), dtype=np.uint32)
    keys = band_keys(found, BANDS)
    assert keys.shape == (50, BANDS) and len(np.unique(keys)) == 50 * BANDS
    for place in range(HASHES):
        other = found[:1].copy()
        other[0, place] ^= 1
        assert (band_keys(other, BANDS)[0] != keys[0]).sum() == 1


@pytest.mark.parametrize(("threshold", "bands"), [(0.95, 10), (0.8, 20), (0.7, 30), (0.5, 40), (0.1, 120)])
def test_bands_find_pairs_at_any_threshold(threshold, bands):
    """A low one takes more of them, or most pairs would be missed without a word."""
    assert number_of_bands(threshold) == bands
    assert threshold < 0.3 or 1 - (1 - threshold ** (HASHES // bands)) ** bands >= 0.99


def test_buckets_pair_each_document_with_the_one_before_and_the_first():
    """Which makes the same clusters as all pairs would."""
    left, right = bucket_pairs(np.array([7, 5, 7, 7, 9, 5, 7], np.uint64))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == sorted(
        [(1, 5), (1, 5), (0, 2), (0, 2), (2, 3), (0, 3), (3, 6), (0, 6)]
    )


def test_pairs_above_the_threshold_are_candidates(documents, alike):
    """Nearly all; each pair once, and of the given documents alone."""
    keys = band_keys(signatures(documents), BANDS)
    given = np.arange(len(documents))
    pairs = {tuple(pair) for pair in candidate_pairs(keys.T, given).tolist()}
    assert len(alike) > 30 and len(alike & pairs) >= 0.97 * len(alike)
    assert {i for pair in candidate_pairs(keys.T, given[::2]) for i in pair} <= set(given[::2].tolist())


def test_a_cluster_is_named_by_its_first_document():
    """Chains make one cluster; whoever is in no pair stays alone."""
    assert first_of_cluster(np.array([[1, 2], [2, 5], [3, 4]]), 7).tolist() == [0, 1, 1, 3, 3, 1, 6]
    assert first_of_cluster(np.empty((0, 2), np.int64), 3).tolist() == [0, 1, 2]


def test_equal_documents_have_both_digests_in_common():
    """One alone may be chance."""
    low, high = np.array([5, 5, 5, 7, 5], np.uint64), np.array([1, 2, 1, 1, 1], np.uint64)
    assert equal_documents(low, high).tolist() == [0, 1, 0, 3, 0]


def test_near_duplicates_are_found_and_nothing_else(documents, alike, tmp_path, monkeypatch):
    """Against exact similarity of all pairs, in blocks of a few texts."""
    monkeypatch.setattr("hf_llm.preparation.spool.BLOCK", 5000)
    spool = Spool(tmp_path / "spool")
    keys = band_keys(signatures(documents), BANDS)
    spool.append(pa.array(documents, pa.large_string()), {f"band_{band}": keys[:, band] for band in range(BANDS)})
    first = near_documents(spool, np.arange(len(documents)), 0.8, NGRAM)
    spool.close()
    expected = first_of_cluster(np.array(sorted(alike)), len(documents))
    assert (first != expected).mean() < 0.01
