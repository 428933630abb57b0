"""What a run prints at its end, for a person to read, and for a program with `--json`."""

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from hf_llm.arguments import EvalArguments, TokenizationArguments
from hf_llm.evaluation.evaluations import Evaluation
from hf_llm.evaluation.generation import model_and_tokenizer
from hf_llm.evaluation.scoring import TaskResult
from hf_llm.files import write_json
from hf_llm.messages import cut, escape_controls, format_scores, format_table, format_value, print_json
from hf_llm.models.inspection import count_parameters
from hf_llm.publishing.evaluation_report import write_evaluation_report
from hf_llm.publishing.run_report import try_report


def report_pretraining(trainer: Trainer, figures: dict[str, float], samples: dict[str, str]) -> None:
    """Print the end of a pretraining run on rank 0: a table, samples of what the model writes, the folder.

    Args:
        figures: what `run_training` returns.
        samples: what `draw_samples` returns.
    """
    if not trainer.args.should_save:
        return
    model, _ = model_and_tokenizer(trainer)
    streamed = "train_epochs_completed" in figures
    rows = {
        "parameters": count_parameters(model),
        "steps": f"{trainer.state.global_step:,} of {trainer.state.max_steps:,}",
        "tokens read, a block ahead" if streamed else "tokens of the data": figures["train_tokens_in"],
        "  packed, dropped": f"{figures['train_tokens_packed']:,}, {figures['train_tokens_dropped']:,}",
        "  packing efficiency": f"{figures['train_packing_efficiency']:.2%}",
        "tokens per second": figures.get("train_tokens_per_second", "no step left"),
        "model FLOPs utilisation": figures.get("train_mfu", "no step left"),
        "validation loss": figures["eval_loss"],
        "perplexity": figures["eval_perplexity"],
    }
    if "eval_bits_per_byte" in figures:
        rows |= {"bits per byte": figures["eval_bits_per_byte"]}
        rows |= {"  zlib -9, same text": figures["eval_zlib_bits_per_byte"]}
    print(f"\n{format_table(rows | source_rows(figures))}")
    for heading, text in samples.items():
        print(f"\n{heading}:\n\n{wrap_and_indent(text)}")
    if isinstance(model, GenerationMixin) and not model.name_or_path:  # a new one that writes text
        print(expectation(count_parameters(model), trainer.state.num_input_tokens_seen), end="")
    write_json(Path(f"{trainer.args.output_dir}") / "samples.json", samples)
    print(f"\nModel and results: {trainer.args.output_dir}", flush=True)
    print_json(output_dir=trainer.args.output_dir, metrics=figures)


def source_rows(figures: dict[str, float]) -> dict[str, str]:
    """The rows of the table for the sources of a mixture: shares, and the validation loss where there is one of each.

    Example:
        >>> source_rows({"train_web_share": 0.7, "eval_web_loss": 3.21})
        {'web, share and loss': '70.00%, 3.21'}
    """
    names = [name[len("train_") : -len("_share")] for name in figures if re.fullmatch(r"train_\w+_share", name)]
    losses = {name: figures.get(f"eval_{name}_loss") for name in names}
    return {
        f"{name}, share" + " and loss" * (loss is not None): f"{figures[f'train_{name}_share']:.2%}"
        + (f", {format_value(loss)}" if loss is not None else "")
        for name, loss in losses.items()
    }


def expectation(parameters: int, tokens: int) -> str:
    """Say what text a new model of this size writes; nothing of a larger one.

    The figures are orders of magnitude: models of 10M parameters wrote coherent children's stories after 500M tokens
    (TinyStories, Eldan and Li, 2023); GPT-2 with 124M parameters read about 10 billion.

    Args:
        tokens: that it was trained on.
    """
    if parameters >= 10_000_000 and tokens >= 500_000_000:
        return ""
    return (
        f"\nWhat to expect of {parameters:,} parameters after {tokens:,} tokens: phrases of the training text, few "
        "sentences.\nSimple stories take some 10M parameters and 500M tokens, general text 100M and billions.\n"
    )


def report_vocabulary(
    folder: Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None, figures: dict[str, float]
) -> None:
    """Print the end of the training of a vocabulary: its size, the figures of held-out texts, the folder."""
    print(f"\n{format_table({'entries': len(tokenizer)} | figures)}", flush=True)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f"\nTokenizer{', model' if model is not None else ''} and results: {shown}", flush=True)
    print_json(output_dir=str(shown), metrics={"entries": len(tokenizer)} | figures)


def report_finetuning(trainer: Trainer, figures: dict[str, float], result: TaskResult) -> None:
    """Print the end of a fine-tuning run on rank 0: a table, the scores, three predictions, the folder."""
    if not trainer.args.should_save:
        return
    model, _ = model_and_tokenizer(trainer)
    rows = {
        "parameters": count_parameters(model),
        "  trained": count_parameters(model, trained=True),
        "steps": f"{trainer.state.global_step:,} of {trainer.state.max_steps:,}",
        "train examples": figures.get("train_examples_of_an_epoch", figures["train_examples"]),
        "  dropped, shortened": f"{figures['train_examples_dropped']:,}, {figures['train_examples_shortened']:,}",
        **({"  packing efficiency": f"{packed:.2%}"} if (packed := figures.get("train_packing_efficiency")) else {}),
        "tokens per second": figures.get("train_tokens_per_second", "no step left"),
        "validation loss": figures["eval_loss"],
    }
    print(f"\n{format_table(rows | source_rows(figures))}\n\n{format_scores(result.scores)}\n")
    print_predictions(result.predictions[:3])
    print(f"Model and results: {trainer.args.output_dir}", flush=True)
    print_json(output_dir=trainer.args.output_dir, metrics=figures)


def report_evaluations(
    args: EvalArguments,
    evaluations: list[Evaluation],
    results: list[list[TaskResult]],
    differences: list[dict[str, float]],
) -> dict[str, Any]:
    """Print for each task the scores, the differences from the baseline and three predictions, on rank 0.

    Args:
        results: the results of the model, and of the baseline if there is one; one per evaluation in each list.
        differences: what `compare_and_save` returns.

    Returns:
        Scores and differences, of several tasks those of each by its name.
    """
    if not PartialState().is_main_process:
        return {}
    models = (args.model_name_or_path, args.baseline)
    for evaluation, task_differences, *task_results in zip(evaluations, differences, *results, strict=True):
        print()
        for model, result in zip(models, task_results, strict=False):
            print(f"{evaluation.name}, {len(result.predictions):,} rows: {model}\n{format_scores(result.scores)}\n")
        if task_differences:
            print(f"Difference\n{format_scores(task_differences)}\n")
        print_predictions(task_results[0].predictions[:3])
    try_report(write_evaluation_report, f"{args.output_dir}")
    print(f"Results: {args.output_dir}", flush=True)
    figures = {
        each.name: found[0].scores | difference
        for each, difference, *found in zip(evaluations, differences, *results, strict=True)
    }
    return figures if len(figures) > 1 else figures[evaluations[0].name]


def report_tokens(args: TokenizationArguments, settings: dict[str, Any]) -> None:
    """Print what a token folder holds, and the command that trains on it."""
    for split, entry in settings["splits"].items():
        size = sum(shard["bytes"] for shard in entry["shards"])
        counts = {name: entry["report"][name] for name in ("documents", "documents_cut", "tokens_packed", "rows")}
        print(f"\n{split}\n{format_table(counts | {'bytes': size})}")
    flags = f"--train_file {args.output_dir} --max_length {args.max_length}" + " --packing false" * (not args.packing)
    print(f"\nTo train on it: accelerate launch recipes/pretrain.py {flags}", flush=True)
    figures = {
        f"{split}_{name}": entry["report"][name]
        for split, entry in settings["splits"].items()
        for name in ("documents", "documents_cut", "tokens_packed", "rows")
    }
    print_json(output_dir=args.output_dir, metrics=figures)


def report_harness(args: EvalArguments, figures: dict[str, float]) -> dict[str, float]:
    """Print the scores of lm-evaluation-harness on rank 0, and return them."""
    if PartialState().is_main_process:
        print(f"\nlm-evaluation-harness\n{format_table(figures)}\n\nResults: {args.output_dir}", flush=True)
    return figures


def print_predictions(predictions: list[dict]) -> None:
    """Print prompts, predictions and references, shortened."""
    for row in predictions:
        prompt, prediction, gold = (
            escape_controls(" ".join(text.split()))
            for text in (row["prompt"], row["prediction"], " | ".join(row["references"]) or "(none)")
        )
        print(f"  {'... ' * (len(prompt) > 300)}{prompt[-300:]}")  # the end, where the question is
        print(f"    model: {cut(prediction, 200)}")
        print(f"    gold:  {cut(gold, 200)}\n")


def wrap_and_indent(text: str) -> str:
    """Wrap a text to lines of 100 characters and indent them; control characters are shown as escapes."""
    lines = escape_controls(text).splitlines()
    return textwrap.indent("\n".join(textwrap.fill(line, 100) for line in lines), "  ")


def print_completions(rows: list[dict[str, Any]], separator: str = "") -> None:
    """Print each prompt, of a conversation its last message, with its completion, and its suffix if it has one.

    A terminal gets control characters as escapes, so that no model can command it; a file or pipe gets the text.

    Args:
        separator: printed between prompt and completion.
    """
    for row in rows:
        prompt = row["messages"][-1]["content"] if "messages" in row else row["prompt"]
        text = f"{prompt}{separator}{row['completion']}{row.get('suffix', '')}\n"
        print(escape_controls(text) if sys.stdout.isatty() else text)
