"""Duplicates are those of the definitions, which are written out here in slow and simple code."""

import itertools
import random

import daft
import numpy as np
import pyarrow as pa
import pytest
from daft import col

from hf_llm.preparation.deduplication import (
    NUM_HASHES,
    band_keys,
    bucket_pairs,
    candidate_pairs,
    first_equal_document,
    first_near_duplicate,
    first_of_cluster,
    jaccard,
    minhash_signature,
    number_of_bands,
    words_and_symbols,
)
from hf_llm.preparation.spool import Spool

BANDS, NGRAM = number_of_bands(0.8), 5


def words_of(texts):
    words = daft.from_pydict({"text": texts}).select(words_and_symbols(col("text"))).to_pydict()["text"]
    return [text.split() for text in words]


def ngram_sets(texts):
    return [
        {tuple(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))} if words else set()
        for words in words_of(texts)
    ]


def similarity(a, b):
    return len(a & b) / max(len(a | b), 1)


def change_words(text, share, rng):
    """Replace a share of the words."""
    words = text.split(" ")
    for index in rng.sample(range(len(words)), max(1, round(share * len(words)))):
        words[index] = f"w{rng.randrange(10**6)}"
    return " ".join(words)


@pytest.fixture(scope="module")
def documents():
    """500 texts of 20 to 200 words, some of them copies with 0 %, 1 %, 5 % and 20 % of the words changed."""
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(2000)}" for _ in range(rng.randrange(20, 200))) for _ in range(400)]
    copies = [change_words(rng.choice(texts), share, rng) for share in (0.01, 0.05, 0.2) for _ in range(25)]
    return [*texts, *copies, *rng.sample(texts, 25)]


@pytest.fixture(scope="module")
def similar_pairs(documents):
    """Every pair of similarity 0.8 or more, found by comparing all pairs."""
    sets = ngram_sets(documents)
    pairs = itertools.combinations(range(len(documents)), 2)
    return {(i, j) for i, j in pairs if similarity(sets[i], sets[j]) >= 0.8}


def signatures(texts):
    column = daft.from_pydict({"text": texts}).select(minhash_signature(col("text"), NGRAM)).to_arrow()["text"]
    return column.combine_chunks().flatten().to_numpy().reshape(-1, NUM_HASHES)


def test_words_and_symbols_are_compared():
    """In any script; punctuation of sentences is ignored, operators are not; dashes are equal."""
    expected = {
        "GPT-2 was, in 2019, große_Sache!": "gpt- 2 was in 2019 große_ sache",
        "我在2019年用GPT。": "我 在 2019 年 用 gpt",
        "カレーは3人前、々": "カ レ ー は 3 人 前 々",
        "हिन्दी में।": "हिन्दी में",
        "أين هو؟ هنا، الآن.": "أين هو هنا الآن",
        "¿Qué? « oui »": "qué oui",
        "ที่นี่ x": "ที่ นี่ x",
        "?": "",
        "": "",
        "“No,” he said – well‑known – (and 'went')... «Why?»": "no he said- well- known- and went why",
        "x^2 − 4 != f(a, b)": "x^ 2- 4!= f( a b)",
        "می\u200cخواهم 👩\u200d💻": "می خواهم👩 💻",
    }
    assert [" ".join(words) for words in words_of(list(expected))] == list(expected.values())


@pytest.mark.parametrize(
    "texts",
    [
        ["What is 12 + 7?", "What is 12 - 7?", "What is 12 * 7?", "What is 12 / 7?", "What is 12 7?", "What is 127?"],
        [
            "return a + b",
            "return a == b",
            "return a != b",
            "return a - b",
            "return a % b",
            "return a & b",
            "return a, b",
        ],
        ["I like C", "I like C++", "I like C#"],
        ["x > 0", "x < 0", "x >= 0", "x = 0", "x -> 0", "x 0"],
        ["!x", "x", "-x", "~x", "*x", "&x", "@x", "#x", "$x", "x%", "x!"[:1] + "²"],
        ["5", "-5", "5%", "$5", "€5", "£5", "5°", "5!", "±5", "5‰"],
        ["1.5", "15", "1:5", "1/5", "1 5"],
        ["a += 1", "a -= 1", "a = 1", "a *= 1"],
        ["(2 + 3) * 4", "2 + (3 * 4)", "2 + 3 * 4", "(2 + 3 * 4)", "2 - 3 * 4", "2 - (3 * 4)"],
        ["x = []", "x = {}", "x = ()"],
        ["a[0]", "a(0)", "a.0", "a{0}"],
        ["π ≤ 3", "π ≥ 3", "π ≈ 3", "π ∈ 3"],
        ["上 5 元", "下 5 元", "上 ¥5 元", "上 5% 元", "上 ＋5 元", "上 －5 元"],
        ["Great 😀", "Great 😡", "Great ❤", "Great"],
        ["👍🏻", "👍🏿", "👍"],
        ["♥ A", "♠ A", "→ A", "← A", "↑ A", "✓ A", "✗ A"],
        ["a ∧ b", "a ∨ b", "a → b", "¬a b", "a ⊕ b", "a ∪ b", "a ∩ b"],
        ["ls -a", "ls --a", "ls a"][::2],
        ["5′", "5″", "5"],
        ["It is 5' long", 'It is 5" long', "It is 5 long"],
        ["def f(a, b):\n    return a + b\n", "def f(a, b):\n    return a - b\n", "def f(a, b):\n    return a * b\n"],
        ["x^2 + 3x - 4 = 0", "x^2 - 3x - 4 = 0", "x^2 + 3x + 4 = 0", "x^2 + 3x * 4 = 0", "x_2 + 3x - 4 = 0"],
        ["A → B", "A ← B", "A ↔ B"],
        ["|x| = 1", "x = 1", "||x|| = 1"],
        ["Dm", "D♯m", "D♭m"],
    ],
    ids=lambda texts: texts[0],
)
def test_texts_that_differ_in_a_symbol_are_different(texts):
    """None is a near duplicate of another one."""
    pairs = np.array(list(itertools.combinations(range(len(texts)), 2)))
    similarities = jaccard(pa.array(texts), pairs, NGRAM)
    assert [(texts[i], texts[j]) for (i, j), value in zip(pairs, similarities, strict=True) if value >= 0.8] == []


@pytest.mark.parametrize(
    "copy",
    [
        "The old man said: „I am here“ — and went, slowly, to the well‑known inn (the Crown); it was late. Why?",
        "the old man said, ‘I am here’ – and went slowly to the well-known inn, the Crown. It was late! Why",
        "THE OLD MAN SAID «I AM HERE» - AND WENT: SLOWLY: TO THE WELL-KNOWN INN, “THE CROWN”: IT WAS LATE… WHY?!",
        "The old man said: »I am here« — and went , slowly, to the « well-known » inn (the Crown) . It was late. ¿Why?",
        "  The old man\n\nsaid: 'I am here' - and went, slowly\tto the well‐known inn [the Crown]; it was late. Why? ",
    ],
)
def test_prose_may_differ_in_punctuation(copy):
    """The kind of quotation marks and dashes, punctuation of sentences, case and spacing do not matter."""
    text = 'The old man said: "I am here" - and went, slowly, to the well-known inn (the Crown). It was late. Why?'
    assert jaccard(pa.array([text, copy]), np.array([[0, 1]]), NGRAM).tolist() == [1]


def test_jaccard_similarity_is_the_definition(documents):
    """Also for short texts and for texts without words."""
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
    sets = ngram_sets(texts)
    expected = [similarity(sets[i], sets[j]) for i, j in pairs]
    np.testing.assert_array_equal(jaccard(pa.array(texts), pairs, NGRAM), expected)
    assert max(expected) == 1 and 0 < sorted(expected)[-20] < 1


def test_equal_signatures_mean_equal_bands():
    """Different signatures have different keys, and changing any one hash changes the key of its band only."""
    draw = np.random.default_rng(0)
    signatures = draw.integers(2**32, size=(50, NUM_HASHES), dtype=np.uint32)
    keys = band_keys(signatures, BANDS)
    assert keys.shape == (50, BANDS) and len(np.unique(keys)) == 50 * BANDS
    for index in range(NUM_HASHES):
        other = signatures[:1].copy()
        other[0, index] ^= 1
        assert (band_keys(other, BANDS)[0] != keys[0]).sum() == 1


@pytest.mark.parametrize(("threshold", "bands"), [(0.95, 10), (0.8, 20), (0.7, 30), (0.5, 40), (0.1, 120)])
def test_bands_find_pairs_at_any_threshold(threshold, bands):
    """A lower threshold needs more bands; otherwise most pairs would be missed silently."""
    assert number_of_bands(threshold) == bands
    assert threshold < 0.3 or 1 - (1 - threshold ** (NUM_HASHES // bands)) ** bands >= 0.99


def test_a_document_is_paired_with_the_one_before_and_the_first_of_its_bucket():
    """For seven keys; a pair that is both appears twice."""
    left, right = bucket_pairs(np.array([7, 5, 7, 7, 9, 5, 7], np.uint64))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == sorted(
        [(1, 5), (1, 5), (0, 2), (0, 2), (2, 3), (0, 3), (3, 6), (0, 6)]
    )


def test_pairs_above_the_threshold_are_candidates(documents, similar_pairs):
    """At least 97 % of them, and only pairs of the given documents."""
    keys = band_keys(signatures(documents), BANDS)
    indices = np.arange(len(documents))
    pairs = {tuple(pair) for pair in candidate_pairs(keys.T, indices).tolist()}
    assert len(similar_pairs) > 30 and len(similar_pairs & pairs) >= 0.97 * len(similar_pairs)
    assert {i for pair in candidate_pairs(keys.T, indices[::2]) for i in pair} <= set(indices[::2].tolist())


def test_a_cluster_is_identified_by_its_first_document():
    """Chains of pairs form one cluster; a document without a pair is its own cluster."""
    assert first_of_cluster(np.array([[1, 2], [2, 5], [3, 4]]), 7).tolist() == [0, 1, 1, 3, 3, 1, 6]
    assert first_of_cluster(np.empty((0, 2), np.int64), 3).tolist() == [0, 1, 2]


def test_equal_documents_have_both_digests_in_common():
    """Documents with only one equal digest are not duplicates."""
    low, high = np.array([5, 5, 5, 7, 5], np.uint64), np.array([1, 2, 1, 1, 1], np.uint64)
    assert first_equal_document(low, high).tolist() == [0, 1, 0, 3, 0]


def test_near_duplicates_are_found_and_nothing_else(documents, similar_pairs, tmp_path, monkeypatch):
    """Compared with the exact similarity of all pairs; texts are read in blocks of a few."""
    monkeypatch.setattr("hf_llm.preparation.spool.BLOCK_BYTES", 5000)
    expected = first_of_cluster(np.array(sorted(similar_pairs)), len(documents))
    assert (first_duplicates(documents, tmp_path) != expected).mean() < 0.01


def first_duplicates(texts, folder):
    spool = Spool(folder / "spool")
    keys = band_keys(signatures(texts), BANDS)
    spool.append(pa.array(texts, pa.large_string()), {f"band_{band}": keys[:, band] for band in range(BANDS)})
    first = first_near_duplicate(spool, np.arange(len(texts)), 0.8, NGRAM)
    spool.close()
    return first


@pytest.mark.parametrize("block", [1, 10**9])
def test_all_near_duplicates_among_texts_of_the_same_letters_are_found(block, tmp_path, monkeypatch):
    """Each text is compared with two others of its bucket only, here 40 copies of four questions in random order."""
    monkeypatch.setattr("hf_llm.preparation.spool.BLOCK_BYTES", block)
    rng = random.Random(0)
    operators = [rng.choice("+-*/") for _ in range(40)]
    texts = [f"What is 12 {operator} 7{rng.choice('?. ')}" for operator in operators]
    first = first_duplicates([*texts, "?", "!"], tmp_path)
    assert first.tolist() == [*map(operators.index, operators), 40, 41]
