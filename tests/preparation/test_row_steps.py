"""The steps for one text: how long it may take, and that its time is linear."""

import contextlib
import re
import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from daft import col

from hf_llm.metrics.segmentation import segment_words_and_marks
from hf_llm.preparation import row_steps
from hf_llm.preparation.decontamination import Decontaminator
from hf_llm.preparation.deduplication import evaluate, jaccard, minhash_signature
from hf_llm.preparation.quality import RULES, SENTENCE_ENDS, Page, drop_c4_lines
from hf_llm.preparation.row_steps import RowResult, RowSteps


def search_forever(text):
    if "slow" in text:
        re.match("(a+)+$", "a" * 60 + "b")
    return text


def compute_forever(text):
    while "slow" in text:
        pass
    return text


@pytest.mark.parametrize("clean", [search_forever, compute_forever])
def test_a_text_that_takes_too_long_is_stopped(clean, monkeypatch):
    """Within a search of a regular expression too; the reason names the step, and the next text has its own time."""
    monkeypatch.setattr(row_steps, "clean", clean)
    steps, begun = RowSteps(max_seconds=0.2), time.process_time()
    for _ in range(2):
        assert steps("good").text == "good"
        problem = "^4 characters take more than 0.2 CPU seconds in the step `cleaning`, see `--max_text_seconds`$"
        with pytest.raises(TimeoutError, match=problem):
            steps("slow")
    assert 0.3 < time.process_time() - begun < 10
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_long_text_has_more_time(monkeypatch):
    """In proportion to its characters, so that the limit never depends on its length."""
    monkeypatch.setattr(row_steps, "LIMITED_CHARACTERS", 100)
    limits = []
    monkeypatch.setattr(row_steps, "limited_time", lambda seconds: limits.append(seconds) or contextlib.nullcontext())
    for characters in (1, 100, 1000):
        RowSteps(max_seconds=5)("x" * characters)
    assert limits == [5, 5, 50]


def test_other_threads_have_no_limit(monkeypatch):
    """A signal would interrupt the main thread only."""
    results = []
    thread = threading.Thread(target=lambda: results.append(RowSteps(max_seconds=0.001)("good text").text))
    thread.start()
    thread.join()
    assert results == ["good text"]


HOSTILE = {
    "spaces": "a{}b", "tabs in lines": "\t\t\t\n", "escape sequences": "\x1b[0", "escape parameters": "\x1b[{}",
    "dots": "{}x", "questions": "?!", "sentences": ". x", "combining marks": "a\u0301\u0316", "marks": "\u0316\u0301",
    "wrong decoding": "Ã¢â‚¬â„¢", "half of it": "Ã", "with spaces": "Ã ", "C1": "\x80\x81\x92", "zero-width": "ก\u200b",
    "one word": "é", "Chinese": "漢", "Hangul": "\u1100\u1161\u11a8", "quotation marks": '"', "brackets": "(",
    "bullets": "- \n", "lines": "x.\n", "ligatures": "\ufdfa", "words": "a b ", "wide spaces": "\u3000",
    "emoji": "👩\u200d💻", "entities": "&#1;é",
}  # fmt: skip


def hostile_text(kind, size):
    filler = {"spaces": " ", "escape parameters": "0 ", "dots": "."}.get(kind)
    pattern = HOSTILE[kind]
    return pattern.format(filler * (size // len(filler))) if filler else pattern * (size // len(pattern))


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_is_linear(kind):
    """Of all steps but the anonymization, on texts that repeat one thing, at two sizes."""
    steps, decontaminator = RowSteps(languages={"xx": set()}), Decontaminator(["one two three four"], 3)
    seconds = []
    for size in (5_000, 50_000):
        result = RowResult(hostile_text(kind, size))
        begun = time.process_time()
        steps.cleaning(result)
        steps.language(result)
        page, text = Page(result.text), hostile_text(kind, size)
        for rule in RULES.values():
            rule(page)
        for each in (SENTENCE_ENDS.findall, drop_c4_lines, segment_words_and_marks, decontaminator.remove_matches):
            each(text)
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 20 * seconds[0] + 1


@pytest.mark.parametrize("kind", HOSTILE)
def test_expressions_of_the_deduplication_are_linear(kind):
    """Those that Daft evaluates, on the same texts."""
    seconds = []
    for size in (50_000, 500_000):
        texts, begun = pa.array([hostile_text(kind, size), "x"]), time.process_time()
        evaluate(minhash_signature(col("text"), 5), texts)
        jaccard(texts, np.array([[0, 1]]), 5)
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 20 * seconds[0] + 1.5
