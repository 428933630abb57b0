"""Run recipes as processes forked from one that has done the imports, which cost 8 seconds of CPU time each.

    python tests/forked_recipes.py jobs.json     # {name: [recipe, flag, value, ...]}

Every process runs the recipe's file as its main module, in the current folder, one after the other. `NAME.stdout`,
`NAME.stderr` and at last `NAME.status`, its exit status, are written beside the JSON file.
"""

import gc
import json
import os
import runpy
import sys
from pathlib import Path


def run_job(folder: Path, name: str, command: list[str]) -> None:
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        (folder / f"{name}.status").write_text(str(os.waitstatus_to_exitcode(status)))
        return
    for number, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / f"{name}.{stream}", os.O_WRONLY | os.O_CREAT), number)
    sys.argv, sys.path[0] = command, os.path.dirname(command[0])
    runpy.run_path(command[0], run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for recipe in sorted({command[0] for command in jobs.values()}):
        runpy.run_path(recipe)  # as a module: its imports only
    gc.freeze()  # or every process would walk, and so copy, all that has been imported
    for job in jobs.items():
        run_job(Path(sys.argv[1]).parent, *job)
