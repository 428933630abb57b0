"""Successive halving against a grid: how many of its steps it trains, and whether it finds the grid's best setting.

accelerate launch recipes/pretrain.py    # the model that is fine-tuned
python benchmarks/search.py --output_dir outputs/halving

Each setting of a grid is trained once, with 12 evaluations, for each of three tasks. Then halving is replayed on these
runs by the code of a search, in many random orders of the settings: training is deterministic, so a search would see
the same evaluations. A best setting that is not the grid's is compared with it on the rows of the validation split.
"""

import argparse
import itertools
import json
import os
import runpy
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from optuna.trial import TrialState
from tqdm import tqdm
from transformers import Trainer  # noqa: F401 (imported once, before the processes of the runs are forked)

from hf_llm.files import write_json
from hf_llm.publishing.compared_runs import read_results
from hf_llm.publishing.comparison import compare_results
from hf_llm.search.space import Parameter, describe, setting_flags
from hf_llm.search.study import SharedStudy
from hf_llm.training.record import read_run

RATES = {"learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], "lr_scheduler_type": ["constant", "linear"]}
SHORT = ["--max_steps=36", "--eval_steps=3", "--per_device_train_batch_size=1", "--max_eval_samples=30"]
FINETUNE = ["recipes/finetune.py", *SHORT]
TASKS = {
    "pretraining": (["recipes/pretrain.py", *SHORT, "--tokenizer_name=outputs/pretrain_tiny"], "loss"),
    "understanding": ([*FINETUNE, "--config=recipes/configs/understanding.yaml"], "accuracy"),
    "multiple_choice": ([*FINETUNE, "--config=recipes/configs/multiple_choice.yaml"], "accuracy"),
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/halving"))
    parser.add_argument("--orders", type=int, default=50)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    return parser.parse_args()


def train(command: list[str], folder: Path) -> None:
    """Run a recipe in a process forked from this one, unless the folder has its results."""
    if (folder / "all_results.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not (process := os.fork()):
        console = os.open(folder / "console.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(console, 1), os.dup2(console, 2)
        sys.argv = [*command, f"--output_dir={folder}", "--save_strategy=no", "--report_to=none"]
        sys.path[0] = str(Path(command[0]).parent)
        status = 1
        try:
            runpy.run_path(command[0], run_name="__main__")
            status = 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"{folder}/console.log: {(folder / 'console.log').read_text()[-500:]}")


def replay(settings: list[dict], evaluations: list[list[float]], order: list[int], direction: str) -> tuple[int, int]:
    """Halving on runs that are done: how many evaluations it trains, and the setting that it finds best."""
    space = [Parameter(name, values) for name, values in RATES.items()]
    with tempfile.TemporaryDirectory() as folder:
        study = SharedStudy(Path(folder), {}, space, direction, "grid", "halving")
        trained, finals = 0, {}
        for number in order:
            trial, reports, pruned, notes = study.take(None), [], False, {}
            for value in evaluations[number]:
                reports.append(value)
                pruned, notes = study.decide(trial.number, reports)
                if pruned:
                    break
            trained += len(reports)
            state = TrialState.PRUNED if pruned else TrialState.COMPLETE
            study.finish(trial, state, None if pruned else reports[-1], reports, notes, {})
            if not pruned:
                finals[number] = reports[-1]
    best = min if direction == "minimize" else max
    return trained, best(finals, key=finals.__getitem__)


def main():
    args = parse()
    settings = [dict(zip(RATES, values, strict=True)) for values in itertools.product(*RATES.values())]
    results = {}
    for task in args.tasks:
        command, metric = TASKS[task]
        folders = [args.output_dir / task / f"{number:02d}" for number in range(len(settings))]
        for setting, folder in zip(tqdm(settings, desc=task), folders, strict=True):
            train([*command, *setting_flags(setting)], folder)
        for name in dict.fromkeys((metric, "loss")):
            results[f"{task}, {name}"] = measure(settings, folders, name, args.orders)
            print(f"{task}, {name}", json.dumps(results[f"{task}, {name}"]), flush=True)
    write_json(args.output_dir / "halving.json", results)


def measure(settings: list[dict], folders: list[Path], metric: str, orders: int) -> dict:
    """Replay halving in random orders, and compare what it finds with the grid's best."""
    logs = [read_run(folder).log for folder in folders]
    evaluations = [
        list({e["step"]: e[f"eval_{metric}"] for e in log if f"eval_{metric}" in e}.values()) for log in logs
    ]
    direction = "minimize" if metric == "loss" else "maximize"
    finals = [each[-1] for each in evaluations]
    best = finals.index(min(finals) if direction == "minimize" else max(finals))
    generator, found, shares = np.random.default_rng(0), [], []
    for _ in range(orders):
        trained, winner = replay(settings, evaluations, generator.permutation(len(settings)).tolist(), direction)
        shares.append(trained / sum(map(len, evaluations)))
        found.append(winner)
    others = {number: is_worse(folders[best], folders[number], metric) for number in {*found} - {best}}
    return {
        "best of the grid": f"{describe(settings[best])}: {finals[best]:.4g}",
        "steps, mean": statistics.mean(shares),
        "steps, most": max(shares),
        "same best": found.count(best) / orders,
        "not distinguishable": sum(not others.get(n, False) and n != best for n in found) / orders,
        "worse": sum(others.get(n, False) for n in found) / orders,
        "others": {describe(settings[n]): f"{finals[n]:.4g}" for n in others},
    }


def is_worse(best: Path, other: Path, metric: str) -> bool:
    """Whether a run is worse than the grid's best one by the paired test over validation rows."""
    return compare_results(read_results([str(best), str(other)]), metric, "models").first_is_better()


if __name__ == "__main__":
    main()
