"""How often a comparison calls a difference that there is not (A/A), and finds one that there is (A/B).

python benchmarks/compare.py simulate
python benchmarks/compare.py train --output_dir outputs/compare --seeds 16
python benchmarks/compare.py real --output_dir outputs/compare

`simulate` makes up models: a row is answered if level + difficulty of the row + deviation of the run + chance > 0.
`train` trains one tiny model with many seeds; `real` compares groups of these runs, which have the same settings but
are given other ones in name, so that every difference that is called is a false one.
"""

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from hf_llm.evaluation.paired_rows import ScoredRows
from hf_llm.publishing.compared_runs import Result, read_results
from hf_llm.publishing.comparison import compare_results

CASES = 200
ROWS = 400


def made_up(setting: str, seed: int, right: np.ndarray) -> Result:
    """A run with one prediction for each row."""
    settings = {"setting": setting, "seed": seed}
    result = Result(f"{setting}{seed}", True, settings, {}, [], {"accuracy": right.mean()}, {})
    rows = [{"references": [f"{i}"], "prediction": "", "accuracy": float(one)} for i, one in enumerate(right)]
    vars(result)["rows"] = {"": [ScoredRows(rows, {})]}  # where `cached_property` would keep them
    return result


def answers(generator: np.random.Generator, level: float, seeds: int, spread: float, shared: float, hard) -> list:
    """Right answers of several runs: `shared` is the variance of the rows' difficulty beside a chance of 1."""
    deviations = generator.normal(size=seeds) * spread
    return [level + shared**0.5 * hard + each + generator.normal(size=ROWS) > 0 for each in deviations]


def simulate() -> None:
    """Print shares of cases with a called difference; deviation and effect are in standard errors of one score."""
    print("| runs of each | correlation over rows | std. of seeds | effect | called |")
    print("|---|---|---|---|---|")
    for subject, seeds, shared, spread, effect in [
        ("models", 1, 3, 0, 0),
        *[("settings", seeds, 3, spread, 0) for seeds in (2, 3) for spread in (0, 1, 3)],
        *[("models", 1, shared, 0, 2) for shared in (1, 3, 6, 19)],
        *[("settings", seeds, 6, 1, 2) for seeds in (3, 5)],
        *[("settings", seeds, 6, 1, 4) for seeds in (2, 3)],
    ]:
        share, correlation = share_called(subject, seeds, shared, spread, effect)
        print(f"| {seeds}, {subject} | {correlation:.2f} | {spread} | {effect} | {share:.1%} |", flush=True)


def share_called(subject: str, seeds: int, shared: float, spread: float, effect: float) -> tuple[float, float]:
    """Share of cases in which one is called better, and the mean correlation of two models over rows.

    Args:
        spread: standard deviation of a seed's score, in standard errors of one score over the rows.
        effect: difference of the mean scores, in the same.
    """
    generator, called, correlations = np.random.default_rng(0), 0, []
    # A score of 0.5 has the standard error 0.5 / sqrt(rows); the level moves it by the density at 0.
    unit = 0.5 / ROWS**0.5 / stats.norm.pdf(0) * (1 + shared) ** 0.5
    for _ in range(CASES):
        hard = generator.normal(size=ROWS)
        levels = (effect * unit / 2, -effect * unit / 2)
        a, b = (answers(generator, level, seeds, spread * unit, shared, hard) for level in levels)
        correlations.append(np.corrcoef(a[0], b[0])[0, 1])
        sides = {"a": a, "b": b}
        runs = [made_up(name, seed, right) for name, side in sides.items() for seed, right in enumerate(side)]
        better = compare_results(runs, subject=subject).pairs[0].better
        called += better == "A" if effect else better is not None
    return called / CASES, float(np.mean(correlations))


def train(output_dir: Path, seeds: int) -> None:
    """Train a tiny model with each seed."""
    model = "hidden_size=48,intermediate_size=96,num_hidden_layers=2,num_attention_heads=2,num_key_value_heads=2"
    flags = f"--config_overrides {model} --vocab_size 1024 --max_length 128 --max_steps 60 --max_train_samples 600"
    flags += " --learning_rate 5e-3 --max_eval_samples 200 --save_strategy no"
    recipe = Path(__file__).parent.parent / "recipes" / "pretrain.py"
    for seed in range(1, seeds + 1):
        command = [sys.executable, recipe, *flags.split(), "--seed", f"{seed}", "--output_dir", output_dir / f"{seed}"]
        subprocess.run(command, check=True)


def real(output_dir: Path) -> None:
    """Compare groups of the trained runs as if their settings differed."""
    runs = read_results([f"{output_dir}"])
    generator = np.random.default_rng(0)
    scores = [run.scores["bits_per_byte"] for run in runs]
    print(f"{len(runs)} runs, bits per byte {np.mean(scores):.4f}, standard deviation {np.std(scores, ddof=1):.4f}\n")
    print("| runs of each | cases | a difference is called |\n|---|---|---|")
    for subject, size in (("settings", 1), ("settings", 2), ("settings", 3), ("models", 1)):
        if len(runs) < 2 * size:
            continue
        called = 0
        for _ in range(CASES):
            chosen = generator.permutation(len(runs))[: 2 * size]
            named = [
                dataclasses.replace(runs[i], settings=runs[i].settings | {"name": place < size})
                for place, i in enumerate(chosen)
            ]
            for run, i in zip(named, chosen, strict=True):
                vars(run)["rows"] = runs[i].rows
            called += compare_results(named, subject=subject).pairs[0].better is not None
        print(f"| {size}, {subject} | {CASES} | {called / CASES:.1%} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["simulate", "train", "real"])
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--seeds", type=int, default=16)
    args = parser.parse_args()
    if args.job == "simulate":
        simulate()
    elif args.job == "train":
        train(args.output_dir, args.seeds)
    else:
        real(args.output_dir)
