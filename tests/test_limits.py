"""Code that may have no end is interrupted, and nothing of the limits is left afterwards."""

import contextlib
import re
import resource
import signal
import threading

import pytest

from hf_llm.limits import limited_memory, limited_time


def search_without_end():
    re.search("(a+)+b", "a" * 40)


def count_without_end():
    while True:
        pass


def ignore_one_error():
    with contextlib.suppress(TimeoutError):
        count_without_end()


def test_a_thread_that_takes_too_long_is_interrupted():
    """As Daft's, which read files; again where an error is ignored, and never after the block."""
    found = []

    def run():
        for call, seconds in ((ignore_one_error, 0.1), (lambda: None, 0)):
            try:
                with limited_time(seconds):
                    call()
                    if seconds:
                        count_without_end()
                sum(range(100_000))
            except TimeoutError as error:
                found.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == ["it takes more than 0.1 CPU seconds"]


@pytest.mark.parametrize("call", [search_without_end, count_without_end])
def test_what_takes_too_long_is_interrupted(call):
    """A regular expression and an endless loop; the timer and the handler are those of before."""
    handler = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(TimeoutError, match=r"^it takes more than 0.2 CPU seconds$"), limited_time(0.2):
        call()
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0) and signal.getsignal(signal.SIGVTALRM) == handler


def test_the_limit_is_raised_again_where_an_error_is_ignored():
    """A library that catches all errors is interrupted a second later."""
    with pytest.raises(TimeoutError), limited_time(0.2):
        ignore_one_error()
        count_without_end()


def test_memory_beyond_the_limit_is_refused():
    """Only in the block."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), limited_memory(1 << 28):
        bytearray(1 << 32)
    assert resource.getrlimit(resource.RLIMIT_AS) == before and len(bytearray(1 << 29)) == 1 << 29
