"""Texts of any script are split into words, or into characters if the script has no spaces."""

import pytest

from hf_llm.metrics.segmentation import segment_words, segment_words_and_marks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GPT-2 was, in 2019, große_Sache!", ["gpt", "2", "was", "in", "2019", "große", "sache"]),
        ("我在2019年用GPT。", ["我", "在", "2019", "年", "用", "gpt"]),
        ("カレーは3人前、々", ["カ", "レ", "ー", "は", "3", "人", "前", "々"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("나는 집에", ["나는", "집에"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("кошка, السلام", ["кошка", "السلام"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("?!。", []),
    ],
    ids=["German", "Chinese", "Japanese", "Hindi", "Korean", "Thai", "Russian and Arabic", "combining", "none"],
)
def test_words(text, expected):
    """Words consist of letters with their combining marks and digits; punctuation is dropped."""
    assert segment_words(text) == expected


def test_punctuation_marks_are_tokens_on_request():
    """Only white space is dropped."""
    assert segment_words_and_marks("Nein!! 好。") == ["nein", "!", "!", "好", "。"]


def test_zero_width_spaces_part_words():
    """They are no marks, as in Khmer and Thai text."""
    assert segment_words_and_marks("ไทย\u200bดี a\u200bb!") == [*"ไทย", "ดี", "a", "b", "!"]
