"""A server that runs recipes as processes forked from one that has done the imports, which cost 8 seconds of CPU time.

    python tests/forked_recipes.py < jobs

Each line of its input is a job, a JSON object: `command` (a Python file and its arguments), `folder` (the current
directory), `environment`, `ranks`, and `results` (a folder). All jobs run at the same time. `results` gets the files
`stdout`, `stderr` and, when the job has ended, `status`. With more ranks than one, each is a process with the
environment that torchrun gives it; when one fails, the others are terminated, and the status is 1.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path

from datasets import disable_progress_bars, enable_progress_bars

from hf_llm.python_docs import python_docs
from hf_llm.tasks import load_task, task_names

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.py"))
# What recipes import when they need it.
IMPORTED_LATER = """
    bitsandbytes deepspeed deepspeed.module_inject.auto_ep_layer deepspeed.ops.op_builder.all_ops fastokens
    rouge_score.rouge_scorer setuptools.dist tabulate hf_llm.distributed.deepspeed_config
    hf_llm.evaluation.scoring hf_llm.evaluation.generation
    transformers.integrations.bitsandbytes transformers.models.llama.modeling_llama
    transformers.models.gpt2.modeling_gpt2 transformers.models.roberta.modeling_roberta
    transformers.models.opt.modeling_opt
"""


def run_recipe(job: dict, environment: dict) -> None:
    """Run the job's file as the main module of this process, and end the process as the interpreter would."""
    os.environ.update(job["environment"] | environment)
    os.chdir(job["folder"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(job["results"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv, sys.path[0] = job["command"], os.path.dirname(job["command"][0])
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        status = stop.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    if environment:  # a rank, whose exit is to be tested as well
        sys.exit(status)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without freeing all modules, which takes half a second


def run_ranks(job: dict) -> int:
    """Run one process, or a process for each rank, and return the exit status."""
    processes, (port, chosen_port) = set(), os.pipe()
    for rank in range(job["ranks"]):
        if not (process := os.fork()):
            environment = {}
            if job["ranks"] > 1:
                numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"]}
                numbers |= {"MASTER_PORT": int(os.read(port, 5)), "LOCAL_WORLD_SIZE": job["ranks"]}
                environment = {name: str(number) for name, number in numbers.items()}
                environment |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
            run_recipe(job, environment)
        processes.add(process)
    if len(processes) > 1:
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(chosen_port, b"%05d" % store.port * len(processes))
    statuses = []
    while processes:
        process, status = os.wait()
        processes.remove(process)
        statuses.append(os.waitstatus_to_exitcode(status))
        if statuses[-1]:
            for other in processes:
                os.kill(other, signal.SIGTERM)
    return statuses[0] if len(statuses) == 1 else int(any(statuses))


def run_job(job: dict) -> None:
    """Run a job and write its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    status = run_ranks(job)
    with contextlib.suppress(FileNotFoundError):  # the tests have ended
        file = Path(job["results"], "status.part")
        file.write_text(str(status))
        file.rename(file.with_suffix(""))
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended jobs leave no zombies
    for recipe in RECIPES:
        runpy.run_path(str(recipe))  # as a module: its imports only
    for module in IMPORTED_LATER.split():
        import_module(module)
    for name in task_names():
        load_task(name)
    disable_progress_bars()  # they start a thread, which a fork would not have
    python_docs()  # takes a second, and is cached
    enable_progress_bars()
    gc.freeze()  # or garbage collection would visit, and so copy, all imported objects in every process
    for line in sys.stdin:
        if not os.fork():
            run_job(json.loads(line))
