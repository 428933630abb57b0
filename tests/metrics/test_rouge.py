"""ROUGE is that of rouge_score and reproduces the known values of ROUGE 1.5.5; other scripts have scores too."""

import json
import os
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from hf_llm.metrics.rouge import Rouge

PREDICTION = "The cats were sitting on the mats.\nThen they ran, quickly."
REFERENCES = ["A cat sat on a mat.\nIt ran away quickly.", "Then the dogs were running.\nThe cats sat on mats."]


@pytest.mark.parametrize("use_stemmer", [False, True], ids=["plain", "stems"])
def test_scores_are_those_of_rouge_score(use_stemmer):
    """Each score for its best reference, with a sentence per line, also with cached tokens."""
    scorer = RougeScorer(list(Rouge.score_names), use_stemmer=use_stemmer)
    expected = {name: score.fmeasure for name, score in scorer.score_multi(REFERENCES, PREDICTION).items()}
    metric = Rouge(use_stemmer)
    assert metric.row_scores([PREDICTION] * 2, [REFERENCES] * 2) == [expected] * 2
    assert metric.compute(predictions=[PREDICTION], references=[REFERENCES]).items() >= expected.items()
    assert len(set(expected.values())) > 2


@pytest.mark.skipif("HF_LLM_SHARED_DATA" not in os.environ, reason="HF_LLM_SHARED_DATA names no folder of data sets")
@pytest.mark.parametrize(
    ("use_stemmer", "expected"),
    [
        (False, {"rouge1": (0.37614, 0.38554, 0.39581)}),
        (True, {"rouge1": (0.39380, 0.40524, 0.41661), "rougeL": (0.39157, 0.40275, 0.41383)}),
    ],
    ids=["plain", "stems"],
)
def test_the_known_values_of_rouge_1_5_5_are_reproduced(use_stemmer, expected):
    """Test data of rouge_score: F-measures and interval bounds are within its tolerance of 0.002."""
    file = Path(os.environ["HF_LLM_SHARED_DATA"]) / "metrics" / "rouge_large.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    predictions, references = [row["prediction"] for row in rows], [row["target"] for row in rows]
    results = Rouge(use_stemmer).compute(predictions=predictions, references=references)
    for name, values in expected.items():
        ours = [results[key] for key in (f"{name}_ci95_low", name, f"{name}_ci95_high")]
        assert ours == pytest.approx(values, abs=0.002)


def test_rouge_lsum_is_not_reported():
    """Its authors split texts into sentences by a model of NLTK that is not installed with it."""
    assert not any("Lsum" in name for name in Rouge().compute(predictions=["a b"], references=["a b"]))


def test_chinese_scores_by_character():
    """Two of three characters are correct."""
    texts = {"predictions": ["北京市"], "references": [["北京人"]]}
    assert Rouge(language="zh").compute(**texts)["rouge1"] == pytest.approx(2 / 3)
    assert Rouge(language="zh").compute(**texts)["rouge2"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("text", ["北京人", "Паром ушёл в 5 утра, CNN", "เรือเฟอร์รี่"])
def test_letters_that_english_drops_are_not_ignored(text):
    """The score would be that of the few digits and Latin letters; with another language it counts all words."""
    with pytest.raises(ValueError, match=r"most letters of `references` are not Latin.*`language=th`"):
        Rouge().compute(predictions=["5 CNN"], references=[[text]])
    assert Rouge(language="th").compute(predictions=[text], references=[[text]])["rouge1"] == 1


def test_words_of_other_languages_are_not_split():
    """rouge_score's own tokenizer splits "große" into "gro" and "e"."""
    texts = {"predictions": ["große Tür"], "references": [["grobe Tür"]]}
    assert Rouge(language="de").compute(**texts)["rouge1"] == pytest.approx(1 / 2)


def test_users_can_pass_a_tokenizer():
    """Any object with a method `tokenize`."""

    class Letters:
        def tokenize(self, text):
            return list(text)

    assert Rouge(tokenizer=Letters()).compute(predictions=["ab"], references=["ac"])["rouge1"] == 0.5


def test_stems_are_only_for_english():
    """Porter stems are refused for other languages."""
    with pytest.raises(ValueError, match=r"^`use_stemmer` stems English only: leave it out with 'de'$"):
        Rouge(use_stemmer=True, language="de")
