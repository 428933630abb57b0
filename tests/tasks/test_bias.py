"""Pairs of sentences are read from CrowS-Pairs and from StereoSet."""

import json

import pytest
from datasets import Dataset

from hf_llm.tasks import load_task

SENTENCES = {"sentence": ["Tea is hot.", "She left.", "He left."], "gold_label": [2, 0, 1]}
OBJECTS = [
    {"sentence": text, "gold_label": label}
    for text, label in zip(SENTENCES["sentence"], ("unrelated", "anti-stereotype", "stereotype"), strict=True)
]


@pytest.mark.parametrize("sentences", [SENTENCES, OBJECTS, json.dumps(OBJECTS)])
@pytest.mark.parametrize("context, before", [("BLANK left.", ""), ("The pilot was tired.", "The pilot was tired. ")])
def test_the_sentences_of_stereoset_become_pairs(sentences, context, before):
    """As lists of the Hub, as objects of its file and as JSON text; sentences that follow a context come after it."""
    rows = load_task("bias").adapt(Dataset.from_list([{"context": context, "sentences": sentences}]))
    assert rows.to_list() == [{"sent_more": f"{before}He left.", "sent_less": f"{before}She left."}]


def test_a_row_without_a_stereotype_is_refused():
    """With its labels; other columns of that name are no concern of the task."""
    rows = Dataset.from_list([{"sentences": OBJECTS}, {"sentences": OBJECTS[:2]}])
    with pytest.raises(ValueError, match="labels of `sentences` are unrelated, anti-stereotype: give one stereotype"):
        load_task("bias").adapt(rows)
    other = Dataset.from_list([{"sentences": ["One.", "Two."]}])
    assert load_task("bias").adapt(other) is other
