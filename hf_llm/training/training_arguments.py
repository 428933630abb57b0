"""`TrainingArguments` of a recipe, with what would fail or be ignored later checked at the start."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from hf_llm.distributed.deepspeed_config import prepare_deepspeed
from hf_llm.hardware import has_bfloat16, share_cores
from hf_llm.messages import disable_progress_bars

# Trackers whose package has the same name.
TRACKERS = ("tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "swanlab", "trackio", "dvclive", "codecarbon")
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "ter", "repetition")


def build_training_arguments(values: dict[str, Any], script: str = "SCRIPT") -> TrainingArguments:
    """Make `TrainingArguments` without the Hub token, with DeepSpeed prepared, in a precision that the hardware has.

    Args:
        values: all their fields by name; `bf16` may be None: if the hardware supports it.
        script: named in the launch commands that error messages suggest.

    Raises:
        ValueError: a tracker is not installed, the push would fail, or the DeepSpeed configuration is inconsistent.
    """
    if token := values.pop("hub_token"):
        # huggingface_hub reads it from here; in the arguments it would be written to training_args.bin and pushed.
        os.environ["HF_TOKEN"] = token
    check_trackers(values["report_to"])
    if values["enable_jit_checkpoint"]:
        raise ValueError(
            "`--enable_jit_checkpoint` would save at SIGTERM without a manifest, and a checkpoint without one is not "
            "resumed from: leave it out, and give a smaller `--save_steps`"
        )
    on_cpu = values["use_cpu"] or not torch.accelerator.is_available()
    if values["bf16"] is None:
        values["bf16"] = not values["fp16"] and has_bfloat16(on_cpu)
    if on_cpu and not values["deepspeed"]:
        values["use_cpu"] = True  # or TrainingArguments refuses bf16
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it falls back to the CPU
        share_cores()
    if values["disable_tqdm"]:
        disable_progress_bars()
    prepare_deepspeed(values, script)
    if values["push_to_hub"]:
        check_push(values)
        # Private by default: what is published by mistake cannot be taken back.
        values["hub_private_repo"] = values["hub_private_repo"] is not False
    if (values["metric_for_best_model"] or "").removeprefix("eval_") in LOWER_IS_BETTER:
        # The Trainer assumes that every score other than a loss should increase.
        values["greater_is_better"] = values["greater_is_better"] or False
    values["remove_unused_columns"] = False  # the collator reads the lengths that the model does not take
    values["include_num_input_tokens_seen"] = "non_padding"  # for the throughput
    values["batch_eval_metrics"] = True  # without the logits of all batches in memory
    return TrainingArguments(**values)


def check_trackers(names: str | list[str] | None) -> None:
    """Raise an error at the start for a tracker whose package is not installed."""
    for name in [names] if isinstance(names, str) else names or []:
        packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if name in TRACKERS and not any(map(importlib.util.find_spec, packages)):
            raise ValueError(f"`--report_to` {name} is not installed: `pip install {name}`, or `--report_to none`")


def check_push(values: dict[str, Any]) -> None:
    """Raise an error at the start for settings that would fail at the push, or publish too much."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name = values["hub_model_id"] or Path(values["output_dir"] or "trainer_output").resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"`--hub_model_id` {name} cannot be a repository: {error}") from None
    if values["hub_strategy"] in ("checkpoint", "all_checkpoints"):
        raise ValueError(
            f"`--hub_strategy` {values['hub_strategy']} would publish optimizer states, which are pickles, and local "
            "paths: take every_save or end"
        )
