"""Scores and signatures are equal to those that the `sacrebleu` command prints for the same files."""

import json
import sys
from itertools import zip_longest

import numpy as np
import pytest
import sacrebleu.tokenizers.tokenizer_ja_mecab as mecab
from sacrebleu.metrics import BLEU, CHRF, TER

from hf_llm.metrics.translation import Translation

TEXTS = {
    "de": (
        ["Die Katze sass auf der Matte.", "Er ging nach Hause, schnell.", "Nein!", "Das kostet 1,50 Euro pro Tag."],
        [
            ["Die Katze saß auf der Matte.", "Er ging schnell nach Hause.", "Nein.", "Es kostet 1,50 Euro am Tag."],
            ["Eine Katze saß auf der Matte da.", "Schnell ging er heim.", "Nein, nein!", "Das kostet 1,50 Euro."],
        ],
    ),
    "zh": (
        ["我今天很高兴去北京。", "模型GPT-2在2019年发布。"],
        [["今天我很高兴去北京玩。", "GPT-2模型在2019年发布。"], ["我很高兴今天去北京。", "模型GPT-2于2019年发布。"]],
    ),
    "ja": (["私は猫が好きです。", "今日は暑いですね。"], [["私は猫がとても好きです。", "今日はとても暑いです。"]]),
    "th": (["ฉันรักแมวมาก", "วันนี้อากาศร้อน"], [["ฉันรักแมวมากๆ", "วันนี้อากาศร้อนมาก"]]),
}
TOKENIZERS = {"de": "13a", "zh": "zh", "ja": "ja-mecab", "th": "char"}


@pytest.mark.parametrize(
    ("language", "num_references"), [("de", 1), ("de", 2), ("zh", 1), ("zh", 2), ("ja", 1), ("th", 1)]
)
def test_corpus_scores_are_those_of_the_sacrebleu_command(language, num_references, processes, tmp_path):
    """For its tokenizer of the language, one or two references; twelve decimals and the signatures are equal."""
    predictions, streams = TEXTS[language]
    streams = streams[:num_references]
    for name, lines in [("system", predictions), *((f"reference{i}", lines) for i, lines in enumerate(streams))]:
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    references = [f"reference{i}" for i in range(num_references)]
    options = ["-i", "system", "-m", "bleu", "chrf", "ter", "-w", "12", "-tok", TOKENIZERS[language]]
    finished = processes.run([sys.executable, "-m", "sacrebleu", *references, *options], tmp_path)
    assert finished.status == 0, finished.stderr
    results = Translation(language, ter=True).compute(
        predictions=predictions, references=[list(texts) for texts in zip(*streams, strict=True)]
    )
    theirs = json.loads(finished.stdout)
    for key, line in zip(("bleu", "chrf", "ter"), theirs, strict=True):
        assert round(results[key], 12) == line["score"] > 0
        assert results[f"{key}_signature"] == line["signature"]


@pytest.mark.parametrize(
    ("tags", "tokenizer"),
    [
        ("zh zho_Hans zho_Hant cn yue wuu zh-TW", "zh"), ("jp jpn_Jpan", "ja-mecab"),
        ("kh khm_Khmr lao bo mya", "char"), ("de deu_Latn arb_Arab zh_Latn", "13a"),
    ],
)  # fmt: skip
def test_the_tokenizer_is_chosen_by_script(tags, tokenizer):
    """Whatever code names the language; sacreBLEU's signature has it."""
    for tag in tags.split():
        scores = Translation(tag).compute(predictions=["a"], references=["a"])
        assert f"|tok:{tokenizer}" in scores["bleu_signature"]


def test_a_chosen_tokenizer_scores_as_sacrebleu_does():
    """BLEU over characters; an unknown tokenizer is refused with the known ones."""
    predictions, (references, _) = TEXTS["zh"]
    scores = Translation("zh", tokenizer="char").compute(predictions=predictions, references=references)
    assert scores["bleu"] == BLEU(tokenize="char").corpus_score(predictions, [references]).score
    with pytest.raises(ValueError, match=r"^`tokenizer` 'flores' of BLEU: choose one of none, zh, 13a"):
        Translation("zh", tokenizer="flores")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError("offline"), r"save https://\S+/flores200sacrebleuspm as \S+/models/flores200sacrebleuspm$"),
        (ImportError("sentencepiece"), "needs SentencePiece: pip install sentencepiece$"),
    ],
    ids=["offline", "not installed"],
)
def test_the_tokenizer_of_flores_is_one_line_with_the_remedy(error, remedy, monkeypatch):
    """Where its file cannot be downloaded, or its library is missing."""
    monkeypatch.setattr("sacrebleu.metrics.bleu._get_tokenizer", lambda name: raising(error))
    with pytest.raises(ValueError, match=f"^BLEU's tokenizer flores200 .*{remedy}"):
        Translation("zh", tokenizer="flores200")


def raising(error):
    raise error


def test_rows_may_have_different_numbers_of_references():
    """Scores are those of sacreBLEU, which takes None for a missing reference; the signature is `nrefs:var`."""
    predictions, streams = TEXTS["de"]
    streams = [streams[0], [streams[1][0], None, None, streams[1][3]]]
    references = [[text for text in texts if text] for texts in zip(*streams, strict=True)]
    results = Translation("de", ter=True).compute(predictions=predictions, references=references)
    for key, metric in {"bleu": BLEU(), "chrf": CHRF(), "ter": TER()}.items():
        assert results[key] == metric.corpus_score(predictions, streams).score
    assert results["bleu_signature"].startswith("nrefs:var|")


def test_row_scores_are_sentence_scores():
    """BLEU with effective order, so that a short correct sentence has 100; the corpus score is not affected."""
    metric = Translation("de", ter=True)
    predictions, references = TEXTS["de"][0], [list(texts) for texts in zip(*TEXTS["de"][1], strict=True)]
    before = metric.compute(predictions=predictions, references=references)
    sentence = {"bleu": BLEU(effective_order=True), "chrf": CHRF(), "ter": TER()}
    for row, prediction, texts in zip(metric.row_scores(predictions, references), predictions, references, strict=True):
        assert row == {key: each.sentence_score(prediction, texts).score for key, each in sentence.items()}
    assert metric.row_scores(["Ja!"], ["Ja!"])[0]["bleu"] == pytest.approx(100)
    assert metric.compute(predictions=predictions, references=references) == before


def test_resamples_do_not_tokenize_again(monkeypatch):
    """The scores are computed only from the summed statistics."""
    metric = Translation("de")
    statistics = metric.statistics(["a b c d"], [["a b c d e"]])
    monkeypatch.setattr(BLEU, "_preprocess_segment", None)
    assert metric.scores(statistics, np.ones(1))["bleu"] > 0


def test_a_missing_tokenizer_is_one_line_with_the_remedy(monkeypatch):
    """Instead of a RuntimeError of several lines."""
    monkeypatch.setattr(mecab, "MeCab", None)
    with pytest.raises(ValueError, match=r"^BLEU's tokenizer ja-mecab needs MeCab: pip install 'sacrebleu\[ja\]'$"):
        Translation("ja")


def test_many_rows_are_scored_as_one_corpus():
    """They are counted in blocks, to save memory; only the first block has a row with two references."""
    texts = [f"Am Tag {number} schien die Sonne." for number in range(450)]
    references = [[texts[0], "Es regnete."], *([text.replace("schien", "sank")] for text in texts[1:])]
    scores = Translation("de").compute(predictions=texts, references=references)
    whole = BLEU().corpus_score(texts, list(zip_longest(*references)))
    assert scores["bleu"] == pytest.approx(whole.score, rel=1e-11) and "nrefs:var" in scores["bleu_signature"]
