"""Runs a command, and ends it with all of its processes when it ends, is to end, or the search has died.

    python hf_llm/search/supervisor.py PARENT COMMAND ...

Launchers start ranks in sessions of their own, so that no signal to a process group reaches all of them, and a rank
whose launcher was killed would train on. Here they become children of this process (`PR_SET_CHILD_SUBREAPER`), which
Linux ends with a signal when the search dies, even by `kill -9` (`PR_SET_PDEATHSIG`).
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
MARK = "HF_LLM_SEARCH_RUN"  # environment variable of all processes of a run, with the run's folder


def end_processes(processes: list[psutil.Process]) -> None:
    """Ask processes to end, and kill those that have not after a while."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=GRACE)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE)


def end_descendants() -> None:
    """End all processes that this one has started, directly or not."""
    while processes := [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]:
        end_processes(processes)


def end_marked(folder: str) -> None:
    """End the processes on this machine that a dead search has left in the folder of a run.

    Their supervisor does so already; this is for one that was killed itself.
    """
    while marked := [process for process in psutil.process_iter() if is_marked(process, folder)]:
        end_processes(marked)


def is_marked(process: psutil.Process, folder: str) -> bool:
    """Whether a process belongs to the run in a folder; those of other users cannot be looked at."""
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == folder
    return False


def main() -> None:
    """Run the command of this process's arguments, and exit with its status."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        sys.exit(128 + signal.SIGTERM)
    status = 1
    try:
        status = subprocess.Popen(command).wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_descendants()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
