"""Limits of time and memory for what may have no end: expressions on any text, programs that came with a model."""

import contextlib
import resource
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in this block if it takes more CPU seconds of the process; only the main thread can.

    Regular expressions are interrupted too: `re` and `regex` look for signals while they search.
    """
    if threading.current_thread() is not threading.main_thread():  # Daft's worker processes call in theirs
        yield
        return

    def stop(number, frame):
        raise TimeoutError(f"it takes more than {seconds:,.3g} CPU seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1)  # and again each second: Jinja ignores errors while it compiles
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def limited_memory(extra: int) -> Iterator[None]:
    """Let allocations in this block fail beyond some bytes more than the process has now; only Linux can."""
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = size + extra
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
