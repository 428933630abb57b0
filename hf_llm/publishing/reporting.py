"""What a run prints at its end, for a person to read."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from hf_llm.arguments import EvalArguments
from hf_llm.data.vocabulary import fertility
from hf_llm.evaluation.scoring import Evaluation, TaskResult, compare
from hf_llm.files import atomic_folder, write_json, write_json_lines
from hf_llm.messages import format_table, format_value
from hf_llm.models.inspection import count_parameters


def report_pretraining(trainer: Trainer, figures: dict[str, float], samples: dict[str, str]) -> None:
    """Print the end of a pretraining run on rank 0: a table, samples of what the model writes, the folder.

    Args:
        figures: what `run_training` returns.
        samples: what `draw_samples` returns.
    """
    if not trainer.args.should_save:
        return
    streamed = "train_epochs_completed" in figures
    rows = {
        "parameters": count_parameters(trainer.model),
        "steps": f"{trainer.state.global_step:,} of {trainer.state.max_steps:,}",
        "tokens read, a block ahead" if streamed else "tokens of the data": figures["train_tokens_in"],
        "  packed, dropped": f"{figures['train_tokens_packed']:,}, {figures['train_tokens_dropped']:,}",
        "  packing efficiency": f"{figures['train_packing_efficiency']:.2%}",
        "tokens per second": figures.get("train_tokens_per_second", "no step left"),
        "model FLOPs utilisation": f"{figures['train_mfu']:.1%}" if "train_mfu" in figures else "no step left",
        "validation loss": figures["eval_loss"],
        "perplexity": figures["eval_perplexity"],
    }
    if "eval_bits_per_byte" in figures:
        rows |= {"bits per byte": figures["eval_bits_per_byte"]}
        rows |= {"  zlib -9, same text": figures["eval_zlib_bits_per_byte"]}
    print(f"\n{format_table(rows)}")
    for heading, text in samples.items():
        print(f"\n{heading}:\n\n{wrap_and_indent(text)}")
    print(f"\nModel and results: {trainer.args.output_dir}", flush=True)


def report_vocabulary(
    folder: Path,
    texts: Sequence[str],
    before: PreTrainedTokenizerBase | None,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | None,
) -> None:
    """The end of a vocabulary's training: what held-out texts cost with it, and did before; all of it on the disk."""
    figures = fertility(tokenizer, texts)
    if before is not None:
        figures |= {f"{name}_before": value for name, value in fertility(before, texts).items()}
    with atomic_folder(folder) as beside:
        for part in (tokenizer, model):
            if part is not None:
                part.save_pretrained(beside)
        write_json(beside / "eval_results.json", {f"eval_{name}": value for name, value in figures.items()})
    print(f"\n{format_table({'entries': len(tokenizer)} | figures)}", flush=True)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f"\nTokenizer{', model' if model is not None else ''} and results: {shown}", flush=True)


def report_finetuning(trainer: Trainer, figures: dict[str, float], result: TaskResult) -> None:
    """The end of a fine-tuning run: predictions on the disk, a table, three answers, the folder. Rank 0 alone."""
    if not trainer.args.should_save:
        return
    write_json_lines(f"{trainer.args.output_dir}/predictions.jsonl", result.predictions)
    rows = {
        "parameters": count_parameters(trainer.model),
        "  trained": count_parameters(trainer.model, trained=True),
        "steps": f"{trainer.state.global_step:,} of {trainer.state.max_steps:,}",
        "train examples": figures["train_examples"],
        "  dropped, shortened": f"{figures['train_examples_dropped']:,}, {figures['train_examples_shortened']:,}",
        "  packing efficiency": f"{figures['train_packing_efficiency']:.2%}",
        "tokens per second": figures.get("train_tokens_per_second", "no step left"),
        "validation loss": figures["eval_loss"],
    }
    print(f"\n{format_table(rows)}\n\n{scores_table(result.scores)}\n")
    print_predictions(result.predictions[:3])
    print(f"Model and results: {trainer.args.output_dir}", flush=True)


def report_evaluations(args: EvalArguments, evaluations: list[Evaluation], results: list[list[TaskResult]]) -> None:
    """Predictions and results on the disk, tables on the screen. Rank 0 alone.

    A single task has the folder to itself; several have one each, and all figures together stand above them.

    Args:
        results: of the model, and of the baseline where there is one; one for each evaluation.
    """
    if not PartialState().is_main_process:
        return
    folder, figures = Path(args.output_dir), {}
    for evaluation, *of_models in zip(evaluations, *results, strict=True):
        place = folder / evaluation.name if len(evaluations) > 1 else folder
        figures[evaluation.name] = report_evaluation(args, evaluation, of_models, place)
    if len(evaluations) > 1:
        write_json(folder / "eval_results.json", figures)
    print(f"Results: {folder}", flush=True)


def report_evaluation(
    args: EvalArguments, evaluation: Evaluation, results: list[TaskResult], folder: Path
) -> dict[str, float | str]:
    """One task's part of it; its figures."""
    (result, *baseline) = results
    for name, of_model in zip(("predictions", "baseline_predictions"), results, strict=False):
        write_json_lines(f"{folder}/{name}.jsonl", of_model.predictions)
    if not baseline:
        (folder / "baseline_predictions.jsonl").unlink(missing_ok=True)  # of an earlier evaluation
    differences = compare(evaluation.task.metric(), *results) if baseline else {}
    figures = result.scores | {f"baseline_{name}": value for of in baseline for name, value in of.scores.items()}
    figures |= result.report.metrics("eval") | differences
    models = {"model": args.model_name_or_path, "baseline": args.baseline}
    figures |= {name: Path(path).name for name, path in models.items() if path} | {"settings": evaluation.settings()}
    write_json(folder / "eval_results.json", figures)
    title = f"{evaluation.name}, {len(result.predictions):,} rows"
    print(f"\n{title}: {args.model_name_or_path}\n{scores_table(result.scores)}\n")
    for of in baseline:
        print(f"{title}: {args.baseline}\n{scores_table(of.scores)}\n")
        print(f"Difference\n{scores_table(differences)}\n")
    print_predictions(result.predictions[:3])
    return figures


def report_harness(args: EvalArguments, results: list[dict[str, float]]) -> None:
    """What lm-evaluation-harness measured, on the disk and on the screen. Rank 0 alone."""
    if not PartialState().is_main_process:
        return
    figures = {}
    for prefix, measured in zip(("", "baseline_"), results, strict=False):
        figures |= {f"{prefix}{name}": value for name, value in measured.items()}
    write_json(Path(args.output_dir) / "harness_results.json", figures)
    print(f"\nlm-evaluation-harness\n{format_table(figures)}\n\nResults: {args.output_dir}", flush=True)


def scores_table(scores: dict[str, float | str]) -> str:
    """Format scores, each with its 95 % confidence interval."""
    rows = {}
    for name, value in scores.items():
        if f"{name}_ci95_low" in scores:
            low, high = scores[f"{name}_ci95_low"], scores[f"{name}_ci95_high"]
            rows[name] = f"{format_value(value)}  [{format_value(low)}, {format_value(high)}]"
        elif "_ci95_" not in name:
            rows[name] = value
    return format_table(rows)


def print_predictions(predictions: list[dict]) -> None:
    """Print prompts, predictions and references, shortened."""
    for row in predictions:
        prompt = " ".join(row["prompt"].split())
        print(f"  {'... ' * (len(prompt) > 300)}{prompt[-300:]}")  # the end, where the question is
        print(f"    model: {textwrap.shorten(row['prediction'], 200)}")
        print(f"    gold:  {textwrap.shorten(' | '.join(row['references']) or '(none)', 200)}\n")


def wrap_and_indent(text: str) -> str:
    """Wrap a text to lines of 100 characters and indent them."""
    return textwrap.indent("\n".join(textwrap.fill(line, 100) for line in text.splitlines()), "  ")


def print_completions(rows: list[dict[str, str]], separator: str = "") -> None:
    """Print each prompt with its completion, and with its suffix if it has one, as one text.

    Args:
        separator: printed between prompt and completion.
    """
    for row in rows:
        print(f"{row['prompt']}{separator}{row['completion']}{row.get('suffix', '')}\n")
