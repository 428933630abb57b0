"""The model card: where a model comes from, its results, how to load it, how it was trained."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, get_token
from huggingface_hub.utils import validate_repo_id
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    TrainingArguments,
)

from hf_llm.files import write_text
from hf_llm.models.inspection import detect_auto_class

PIPELINES = {
    AutoModelForCausalLM: "text-generation",
    AutoModelForMaskedLM: "fill-mask",
    AutoModelForSequenceClassification: "text-classification",
}
SHOWN_RESULTS = ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "train_tokens_packed", "num_input_tokens_seen")
CARD_TEMPLATE = """---
{metadata}
---

# {name}

{origin} on {data} with hf_llm and the Hugging Face Trainer.

## Results

{results}

## How to load it

```python
from transformers import {auto_class}, AutoTokenizer

name = "USER/REPOSITORY"  # this repository's id, or the folder it was downloaded to
model = {auto_class}.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
```

## Hyperparameters

{hyperparameters}
"""


def write_model_card(
    folder: str | Path,
    *,
    base_model: str | None,
    datasets: Sequence[str | None],
    results: dict[str, float],
    hyperparameters: dict[str, Any],
    language: str | None = None,
    license: str | None = None,
) -> None:
    """Write a model's `README.md`: its origin and results, how to load it, how it was trained.

    Base model and data sets are named only if they are ids on the Hub, and hyperparameters that hold a local path or a
    token are left out.

    Args:
        datasets: names of the data sets; None stands for data without one.

    Raises:
        ValueError: the text would contain the Hub token.

    Example:
        >>> write_model_card("out", base_model=None, datasets=["karpathy/tiny_shakespeare"],
        ...                  results={"perplexity": 12.5}, hyperparameters={"learning_rate": 3e-4})
    """
    folder, base_model = Path(folder), as_hub_id(base_model)
    named = [name for name in datasets if name and as_hub_id(name)]
    data = ", ".join([*named, *(["local files"] if len(named) < len(datasets) or not named else [])])
    name, auto_class = folder.resolve().name, detect_auto_class(str(folder))
    pipeline = PIPELINES[auto_class]
    evaluated_on: Any = {"dataset_type": data if [data] == named else "custom", "dataset_name": data}
    eval_results = [
        EvalResult(task_type=pipeline, metric_type=metric, metric_value=float(value), **evaluated_on)
        for metric, value in results.items()
        if math.isfinite(value)  # the Hub reads the metadata as JSON, which has no NaN
    ]
    metadata = ModelCardData(
        model_name=name,
        base_model=base_model,
        datasets=named or None,
        eval_results=eval_results or None,
        language=language,
        license=license,
        library_name="peft" if (folder / "adapter_config.json").is_file() else "transformers",
        pipeline_tag=pipeline,
        tags=["hf_llm"],
    )
    public = {setting: value for setting, value in hyperparameters.items() if not is_local_or_secret(value)}
    text = CARD_TEMPLATE.format(
        metadata=metadata.to_yaml(),
        name=name,
        origin=f"Fine-tuned from `{base_model}`" if base_model else "Trained",
        data=data,
        results=describe_results(folder, results),
        auto_class=auto_class.__name__,
        hyperparameters=markdown_table("Name", public),
    )
    if (token := get_token()) and token in text:
        raise ValueError("`README.md` would contain the Hub token: take it out of the arguments of the model card")
    write_text(folder / "README.md", text)


def describe_results(folder: Path, results: dict[str, float]) -> str:
    """Return the results as a table, with the loss curve if the run has drawn it."""
    table = markdown_table("Metric", {metric: f"{value:.6g}" for metric, value in results.items()})
    drawn = (folder / "curves" / "loss.png").is_file()
    return table + "\n\n![Loss over the steps of training](curves/loss.png)" * drawn


def card_results(results: dict[str, float]) -> dict[str, float]:
    """Return the results of a run that the model card shows: `SHOWN_RESULTS`, and the task's scores."""
    # The task's scores are the results with a confidence interval.
    return {name: value for name, value in results.items() if name in SHOWN_RESULTS or f"{name}_ci95_low" in results}


def card_hyperparameters(args: TrainingArguments) -> dict[str, Any]:
    """Return the settings of training that the model card shows, for readers who want to train the same way."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    names = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "warmup_steps", "seed")
    schedule = {"optim": args.optim.value, "lr_scheduler_type": args.lr_scheduler_type.value}
    return {"rows per step": batch, **schedule, **{name: getattr(args, name) for name in names}, "bf16": args.bf16}


def as_hub_id(name: str | None) -> str | None:
    """Return the name if it can be an id on the Hub, and None for a local folder or file."""
    if not name or os.path.exists(name):  # False for a name that is too long, where Path raises an error
        return None
    try:
        validate_repo_id(name)
    except ValueError:
        return None
    return name


def is_local_or_secret(value: Any) -> bool:
    """Return whether a hyperparameter holds, at any depth, a local path or what looks like a token."""
    if isinstance(value, dict):
        return any(map(is_local_or_secret, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_local_or_secret, value))
    text = str(value)
    return text.startswith("hf_") or (bool(re.search(r"[/\\]", text)) and as_hub_id(text) is None)


def markdown_table(heading: str, rows: dict[str, Any]) -> str:
    """Format names and values as a table in Markdown."""
    if not rows:
        return "None were recorded."
    cells = ((name, " ".join(str(value).split()).replace("|", "\\|")) for name, value in rows.items())
    return "\n".join([f"| {heading} | Value |", "|---|---|", *(f"| `{name}` | {value} |" for name, value in cells)])
