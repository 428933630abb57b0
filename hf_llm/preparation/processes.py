"""The steps for single texts in Daft's worker processes, to which texts go through shared memory.

Worker processes import this file: nothing that is slow to import may be imported here.
"""

import atexit
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

import daft
import pyarrow as pa
from daft import DataType

from hf_llm.messages import one_line
from hf_llm.preparation.row_steps import RowSteps

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"
REMEDY = "enlarge `/dev/shm`, of a container by `docker run --shm-size 1g`"
BATCH_BYTES = 4 << 20  # of text per call of a worker process
MIN_TEXT = 4 << 20  # bytes: there are so few processes that a text of this size fits for each of them
# Of the texts in a process' batch: itself, what the steps add to it, and a reserve for other users of shared memory.
SHARES = 3
RESULT_TYPE = pa.struct(  # the fields of `RowResult` that a worker process returns, and why it has none
    [
        ("text", pa.large_string()),
        ("step", pa.large_string()),
        ("reason", pa.large_string()),
        ("replaced", pa.large_list(pa.large_string())),
        ("changed", pa.large_list(pa.large_string())),
        ("removed_bytes", pa.large_list(pa.int64())),
        ("failure", pa.large_string()),
    ]
)


class StepWorker:
    """The steps in a worker process. A text at which they fail has no result but a `failure`."""

    def __init__(self, steps: RowSteps):
        self.steps = steps
        if (spec := sys.modules["__main__"].__spec__) and spec.name == "daft.execution.udf_worker":
            # Daft waits for a process 5 s, and prints an error if it takes longer to tidy up, on a busy machine.
            atexit.register(os._exit, 0)

    @daft.method.batch(return_dtype=DataType.from_arrow_type(RESULT_TYPE), unnest=True)
    def __call__(self, texts: daft.Series) -> pa.Array:
        results = [self.result(text) if text is not None else None for text in texts.to_pylist()]
        try:
            return pa.array(results, RESULT_TYPE)
        except UnicodeEncodeError:  # a step left half of a surrogate pair
            return pa.array([storable(result) for result in results], RESULT_TYPE)

    def result(self, text: str) -> dict:
        try:
            return vars(self.steps(text)) | {"failure": None}
        except Exception as error:  # of any library, or memory: of this text alone
            return {"failure": failure(error)}


def storable(result: dict | None) -> dict | None:
    """Return the result, or a failure if its text cannot be stored."""
    try:
        pa.array([result], RESULT_TYPE)
    except UnicodeEncodeError as error:
        return {"failure": failure(error)}
    return result


def failure(error: Exception) -> str:
    """Describe why a text has no result."""
    name = "" if isinstance(error, TimeoutError) else f"{type(error).__name__}: "  # that of a step explains itself
    return f"cannot be prepared: {name}{one_line(error)}".encode("utf-8", "replace").decode()


def shared_memory_limits() -> tuple[int | None, int]:
    """Return how many worker processes fit into the free shared memory, None for all, and the bytes of text for each.

    A process that writes beyond it is killed without a message.

    Raises:
        ValueError: there is no shared memory, or its sockets cannot be made.
    """
    if len(os.path.join(tempfile.gettempdir(), "tmp12345678")) > 107:
        raise ValueError(f"TMPDIR is `{tempfile.gettempdir()}`, too long for the sockets in it: give a shorter one")
    if not os.path.isdir(SHARED_MEMORY):  # another system than Linux
        return None, sys.maxsize
    status = os.statvfs(SHARED_MEMORY)
    free, cores = status.f_bavail * status.f_frsize // SHARES, os.cpu_count() or 1
    if free < 64 << 10:
        raise ValueError(f"`{SHARED_MEMORY}` has {free * SHARES:,} free bytes: {REMEDY}")
    workers = min(cores, max(1, free // MIN_TEXT))
    if workers < cores:
        logger.warning(f"`{SHARED_MEMORY}` is small: only {workers} of {cores} cores prepare texts; {REMEDY}")
    return workers if workers < cores else None, free // workers


def worker_function(steps: RowSteps, workers: int | None):
    """Return the Daft function that applies the steps in worker processes."""
    return daft.cls(StepWorker, use_process=True, max_concurrency=workers)(steps)


@contextlib.contextmanager
def worker_environment() -> Iterator[None]:
    """Keep worker processes from importing what lies in the current folder in place of Python's own modules.

    Daft starts them by `python -m`, and waits without end for one that such a module breaks.
    """
    before = {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", "PYTHONPATH")}
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
