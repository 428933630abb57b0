"""Limits of time and memory for what may have no end: expressions on any text, programs that came with a model."""

import contextlib
import ctypes
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator

POLL_SECONDS = 0.1  # between looks at the time of a thread


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in this block if it takes more CPU seconds: of the process, in other threads of the thread.

    Regular expressions are interrupted too, in the main thread: `re` and `regex` look for signals while they search.
    """
    message = f"it takes more than {seconds:,.3g} CPU seconds"
    if threading.current_thread() is not threading.main_thread():  # such as those in which Daft reads files
        try:
            with limited_thread_time(seconds):
                yield
        except TimeoutError:
            raise TimeoutError(message) from None
        return

    def stop(number, frame):
        raise TimeoutError(message)

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1)  # and again each second: Jinja ignores errors while it compiles
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def limited_thread_time(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in this block if it takes more CPU seconds of its thread; only Linux can."""
    if sys.platform != "linux":
        yield
        return
    thread, lock, ended = threading.get_ident(), threading.Lock(), threading.Event()
    clock = time.pthread_getcpuclockid(thread)
    end = time.clock_gettime(clock) + seconds
    set_error, ident = ctypes.pythonapi.PyThreadState_SetAsyncExc, ctypes.c_ulong(thread)

    def watch():
        while not ended.wait(POLL_SECONDS):
            with lock:
                if time.clock_gettime(clock) > end and not ended.is_set():
                    set_error(ident, ctypes.py_object(TimeoutError))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with lock:
            ended.set()
            set_error(ident, None)  # one that is not raised yet
        watcher.join()


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
