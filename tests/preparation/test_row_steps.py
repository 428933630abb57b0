"""The steps for one text: how long it may take."""

import re
import signal
import threading
import time

import pytest

from hf_llm.preparation import row_steps
from hf_llm.preparation.row_steps import RowSteps


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
    assert 0.4 <= time.process_time() - begun < 2
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_long_text_has_more_time(monkeypatch):
    """In proportion to its characters, so that the limit never depends on its length."""
    monkeypatch.setattr(row_steps, "LIMITED_CHARACTERS", 100)
    limits = []
    monkeypatch.setattr(row_steps.signal, "setitimer", lambda which, seconds: limits.append(seconds))
    for characters in (1, 100, 1000):
        RowSteps(max_seconds=5)("x" * characters)
    assert limits == [5, 0, 5, 0, 50, 0]


def test_other_threads_have_no_limit(monkeypatch):
    """A signal would interrupt the main thread only."""
    results = []
    thread = threading.Thread(target=lambda: results.append(RowSteps(max_seconds=0.001)("good text").text))
    thread.start()
    thread.join()
    assert results == ["good text"]
