"""The report of a training run: one page with curves, scores, texts and settings, from what is in the run's folder."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import safe_open

from hf_llm.messages import cut, format_duration, format_size, format_value, one_line
from hf_llm.publishing.page import Block, Highlights, Picture, Section, Table, Text, Texts, flatten, write_page
from hf_llm.publishing.plots import LINES, draw_curve, draw_dropped, draw_scores, save_png
from hf_llm.training.record import Run, read_json, read_run

logger = logging.getLogger(__name__)

REPORT, CURVES, SAMPLES = "report.html", "curves", "samples.json"
PREDICTIONS, OPEN_PREDICTIONS = 20, 5  # shown, and without a click
SHOWN_PROMPT, SHOWN_ANSWER = 700, 1200  # characters; of a prompt its end, where the question is
SCORE_CURVES = 4
CURVE_NAMES = {"learning_rate": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens per second"}
# Figures of results whose names say less than these.
RESULT_NAMES = {"eval_loss": "validation loss", "eval_perplexity": "perplexity", "eval_bits_per_byte": "bits per byte"}
DATA_FIGURES = {
    "documents": "documents", "documents_cut": "documents cut at the end of a row", "examples": "examples",
    "examples_dropped": "examples dropped", "examples_shortened": "examples shortened", "rows": "packed rows",
    "tokens_in": "tokens", "tokens_dropped": "tokens dropped",
    "packing_efficiency": "packing efficiency",
}  # fmt: skip
MODEL_SIZES = {
    "hidden_size": "hidden size", "num_hidden_layers": "layers", "num_attention_heads": "attention heads",
    "max_position_embeddings": "positions", "vocab_size": "vocabulary",
}  # fmt: skip


def write_run_report(folder: str | Path) -> None:
    """Write `report.html` and the pictures of `curves/` into the folder of a training run, from its files alone.

    The page shows what was trained on what, the curves, scores with intervals, predictions, samples, settings and
    environment, as far as the folder has them: also of a run that has not finished.

    Args:
        folder: `--output_dir` of a training run.

    Raises:
        ValueError: the folder is not that of a run, or a file in it cannot be read.

    Example:
        >>> write_run_report("outputs/pretrain_tiny")
    """
    run = read_run(folder)
    is_task = "task" in run.settings or "eval_examples" in run.results
    figures, intervals = headline_figures(run)
    curves, scores = draw_curves(run.log), draw_score_intervals(run.results)
    for path in (run.folder / CURVES).glob("*.png"):  # of an earlier run
        path.unlink()
    for picture in (*curves, *scores):
        save_png(run.folder / CURVES / f"{picture.name}.png", picture.figure)
    sections = [
        Section("", [*([Highlights(figures, intervals)] if figures else []), *unfinished(run)]),
        Section("Training", curves or [Text("The run has logged no curve.", "note")]),
        Section("Scores", [*scores, *score_table(run.results)] if scores else []),
        Section("Model", [Table.of(facts)] if (facts := model_facts(run)) else []),
        Section("Data", data_blocks(run)),
        preparation_section(run.settings),
        *(prediction_sections(run.folder) if is_task and run.results else []),
        Section("Samples", samples(run.folder) if run.results and not is_task else []),
        Section("Settings", [Table.of(flatten(run.settings))] if run.settings else [], folded=True),
        Section("All results", [Table.of(run.results)] if run.results else [], folded=True),
        Section("Environment", [Table.of(flatten(run.environment))] if run.environment else [], folded=True),
    ]
    write_page(run.folder / REPORT, run.folder.resolve().name, summary(run), [each for each in sections if each.blocks])


def try_report(write: Callable[[str | Path], None], folder: str | Path) -> None:
    """Write the report of finished work; a failure is logged, since it must never cost the results."""
    try:
        write(folder)
    except Exception as error:
        logger.warning(f"`{folder}` has no {REPORT}: {type(error).__name__}: {one_line(error)}")


def summary(run: Run) -> str:
    """Say in a sentence what was trained, on what, and for how long."""
    settings = run.settings
    base, task = settings.get("model_name_or_path"), settings.get("task")
    if task or "eval_examples" in run.results:
        model = f"`{Path(base).name}` fine-tuned" if base else "A model fine-tuned"
        what = f"{model} for {', '.join(task) if isinstance(task, list) else task}" if task else model
    else:
        what = f"`{Path(base).name}` pretrained further" if base else "A new model pretrained"
    steps = max((entry.get("step", 0) for entry in run.log), default=0)
    seconds = run.results.get("train_runtime")
    return f"{what} on {data_name(settings)}: {steps:,} steps{f' in {format_duration(seconds)}' if seconds else ''}."


def data_name(settings: Mapping[str, Any]) -> str:
    """Name the training data by the flags that chose them."""
    files = settings.get("train_file") or []
    files = [files] if isinstance(files, str) else files
    if settings.get("mixture"):
        mixture = settings["mixture"]
        return f"the mixture `{Path(mixture).name}`" if isinstance(mixture, str) else "a mixture"
    if files:
        return ", ".join(f"`{Path(file).name}`" for file in files[:3]) + (", ..." if len(files) > 3 else "")
    if name := settings.get("dataset_name"):
        return " ".join(f"`{part}`" for part in (name, settings.get("dataset_config_name")) if part)
    return "the built-in sample" if settings else "data that are not recorded"


def headline_figures(run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures that a reader wants first, scores or losses, tokens, speed; and the intervals of some."""
    results = run.results
    names = scores_with_interval(results)[:2]
    shown = {name: results[f"eval_{name}"] for name in names}
    for key, name in RESULT_NAMES.items():
        if key in results and name not in shown:
            shown[name] = results[key]
    if tokens := results.get("num_input_tokens_seen"):
        shown["tokens trained on"] = tokens
    if rate := results.get("train_tokens_per_second"):
        shown["tokens per second"] = rate
    return shown, {name: interval(f"eval_{name}", results) for name in names}


def unfinished(run: Run) -> list[Block]:
    """Say that the run has not ended, if so."""
    if run.results:
        return []
    return [Text("This run has not finished: what is shown is as far as it came.", "bad")]


def draw_curves(log: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Draw the curves of a run: losses, learning rate, gradient norm, speed, and scores where there are several."""
    validation = [{"step": entry["step"], "loss": entry["eval_loss"]} for entry in log if "eval_loss" in entry]
    losses = {"training": log, "validation": validation} if validation else {"training": log}
    pictures = [Picture(draw_curve("loss", losses), "loss", "Loss over the steps of training")]
    for name, title in CURVE_NAMES.items():
        pictures.append(Picture(draw_curve(name, {"": log}, title), name, f"{title.capitalize()} over the steps"))
    for name in scores_with_interval({key: value for entry in log for key, value in entry.items()})[:SCORE_CURVES]:
        entries = [{"step": entry["step"], name: entry[f"eval_{name}"]} for entry in log if f"eval_{name}" in entry]
        if len(entries) > 1:
            figure = draw_curve(name, {"": entries}, f"validation: {name}")
            pictures.append(Picture(figure, f"eval_{name}", f"{name} over the steps"))
    return [picture for picture in pictures if picture.figure.axes[0].lines]


def scores_with_interval(results: Mapping[str, Any]) -> list[str]:
    """Names of the scores, without `eval_`, that have an interval."""
    return [key[5:] for key in results if key.startswith("eval_") and f"{key}_ci95_low" in results]


def interval(key: str, results: Mapping[str, Any]) -> str:
    """Format the interval of a score."""
    return f"{format_value(results[f'{key}_ci95_low'])} to {format_value(results[f'{key}_ci95_high'])}"


def draw_score_intervals(results: Mapping[str, Any]) -> list[Picture]:
    """Draw the scores with their 95 % intervals: shares on one axis, those up to 100 on another, no perplexity."""
    pictures: list[Picture] = []
    scores: dict[str, tuple[float, float, float]] = {
        name: (results[key := f"eval_{name}"], results[f"{key}_ci95_low"], results[f"{key}_ci95_high"])
        for name in scores_with_interval(results)
        if "perplexity" not in name
    }
    for name, limit in (("shares", 1), ("scores", 100)):
        fitting = {label: values for label, values in scores.items() if max(map(abs, values)) <= limit}
        scores = {label: values for label, values in scores.items() if label not in fitting}
        if fitting:
            figure = draw_scores("scores with 95 % intervals", fitting, colors=LINES[:1])
            description = ", ".join(f"{label} {format_value(values[0])}" for label, values in fitting.items())
            pictures.append(Picture(figure, name, f"Scores with intervals: {description}"))
    return pictures


def score_table(results: Mapping[str, Any]) -> list[Block]:
    """Return the scores with intervals, and the losses, as a table."""
    names = scores_with_interval(results)
    rows = [[name, results[f"eval_{name}"], interval(f"eval_{name}", results)] for name in names]
    losses = [(name, results[key]) for key, name in RESULT_NAMES.items() if key in results and key[5:] not in names]
    rows += [[name, value, None] for name, value in losses]
    return [Table(["score", "value", "95 % interval"], rows)] if rows else []


def model_facts(run: Run) -> dict[str, Any]:
    """What was trained: architecture, sizes, parameters; of adapters their own."""
    config = read_json(run.folder / "config.json") | read_json(run.folder / "adapter_config.json")
    base = run.settings.get("model_name_or_path") or config.get("base_model_name_or_path")
    facts: dict[str, Any] = {"base model": base}
    facts["architecture"] = ", ".join(config.get("architectures") or []) or None
    facts["adapters"] = f"{config['peft_type']}, rank {config.get('r')}" if "peft_type" in config else None
    weights = sorted(run.folder.glob("*.safetensors"))
    facts["parameters" + " of the adapters" * ("peft_type" in config)] = sum(map(count_saved, weights)) or None
    facts |= {name: config.get(key) for key, name in MODEL_SIZES.items()}
    return {name: value for name, value in facts.items() if value is not None}


def count_saved(path: Path) -> int:
    """Count the parameters of a safetensors file by its header; tied weights are in it once."""
    with safe_open(path, "np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (not a dict)


def data_blocks(run: Run) -> list[Block]:
    """What it was trained and evaluated on: the name, and for each split rows, tokens, and what was dropped."""
    rows = [
        [name, run.results.get(f"train_{key}"), run.results.get(f"eval_{key}")] for key, name in DATA_FIGURES.items()
    ]
    if "train_examples" in run.results:  # of a task; its documents are these examples
        rows = [row for row in rows if not row[0].startswith("documents")]
    rows = [row for row in rows if row[1:] != [None, None]]
    name = data_name(run.settings)
    return [Text(f"{name[0].upper()}{name[1:]}."), *([Table(["", "training", "validation"], rows)] if rows else [])]


def preparation_section(settings: Mapping[str, Any]) -> Section:
    """Show what became of the raw files, if `prepare_data.py` has made the training files and they are still there."""
    files = settings.get("train_file") or []
    blocks: list[Block] = []
    for file in [files] if isinstance(files, str) else files:
        path = Path(file).expanduser()
        manifest = read_json((path if path.is_dir() else path.parent) / "manifest.json")
        if steps := manifest.get("steps"):
            names = ("step", "rows_in", "rows_out", "changed", "bytes_out")
            rows = [[step.get(name) for name in names] for step in steps]
            blocks += [
                Text(f"`{file}`: {manifest['rows']:,} texts, {format_size(manifest['bytes'])}, from raw files."),
                Picture(draw_dropped(steps), "funnel", "Rows that each step of the preparation dropped"),
                Table(["step", "rows in", "rows out", "texts changed", "bytes out"], rows),
            ]
    return Section("Preparation of the data", blocks)


def prediction_sections(folder: Path) -> list[Section]:
    """Show the first predictions beside their references: some at once, the others when asked for."""
    items = [shown_prediction(row) for row in read_predictions(folder / "predictions.jsonl")]
    shown, others = items[:OPEN_PREDICTIONS], items[OPEN_PREDICTIONS:]
    sections = [Section("Predictions", [Texts(shown)])] if shown else []
    return sections + [Section(f"{len(others)} more predictions", [Texts(others)], folded=True)] * bool(others)


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Read the predictions that a report shows; none if there is no such file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, PREDICTIONS)]


def shown_prediction(row: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a prediction, cut, and its scores."""
    prompt = row["prompt"]
    texts = {"prompt": f"...{prompt[3 - SHOWN_PROMPT :]}" if len(prompt) > SHOWN_PROMPT else prompt}
    if row.get("thought"):
        texts["thoughts"] = cut(row["thought"], SHOWN_ANSWER)
    texts["model"] = cut(row["prediction"], SHOWN_ANSWER)
    texts["reference"] = cut(" | ".join(row["references"]) or "(none)", SHOWN_ANSWER)
    scores = {name: value for name, value in row.items() if isinstance(value, int | float)}
    if scores:
        texts["scores"] = ", ".join(f"{name} {format_value(value)}" for name, value in scores.items())
    return texts


def samples(folder: Path) -> list[Block]:
    """Show the texts that the trained model has written."""
    texts = read_json(folder / SAMPLES)
    return [Texts([{heading: cut(text, 3000)} for heading, text in texts.items()])] if texts else []
