"""One DeepSpeed JSON file, consistent with `TrainingArguments`, on GPUs and on CPU ranks."""

import json
import os
from dataclasses import fields
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from hf_llm.distributed.ranks import set_up_ranks, use_cpu_ranks
from hf_llm.mappings import read_json

REFUSED_BLOCKS = {
    "optimizer": "it would silently win over `--learning_rate`, `--weight_decay` and `--optim`: remove it",
    "scheduler": "it would silently win over `--lr_scheduler_type` and `--warmup_steps`: remove it",
    "bfloat16": "not read beside `bf16`: rename it",
}
# Settings of `accelerate launch` that would do nothing beside a JSON.
LAUNCHER_FLAGS = {
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "--zero_stage",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "--offload_optimizer_device",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "--offload_param_device",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--gradient_accumulation_steps",
    "ACCELERATE_GRADIENT_CLIPPING": "--gradient_clipping",
}


def prepare_deepspeed(values: dict[str, Any]) -> None:
    """Make the DeepSpeed run that was asked for the one that will happen. Call before `TrainingArguments(**values)`.

    Reads and checks the JSON, fills in what it leaves out, and sets up the ranks: one, if there is no launcher. Where
    there is no GPU, the same JSON runs on CPU ranks over gloo. Nobody asked for DeepSpeed: nothing happens.

    Args:
        values: field values of `TrainingArguments`, modified in place; `deepspeed` becomes the complete JSON object.

    Raises:
        ValueError: an unreadable JSON; conflicts with `values`, all in one line; a launch that would run without
            DeepSpeed, with a configuration that no file shows, or with fewer ranks than asked for.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        adopt_launcher_config(values)
    if not values.get("deepspeed"):
        return
    name, config = read_json(values["deepspeed"], "--deepspeed")
    on_cpu = not torch.accelerator.is_available()
    set_up_ranks(on_cpu, asked_for_cpu=values.get("use_cpu") or parse_flag_from_env("ACCELERATE_USE_CPU"))
    try:
        check_consistency(config, values, int(os.environ["WORLD_SIZE"]))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    # A key left out is not "auto": DeepSpeed would clip nothing and accumulate nothing, whatever the flags say.
    for key in expected_values(values, world_size=1):
        block, _, leaf = key.rpartition(".")
        (config.setdefault(block, {}) if block else config).setdefault(leaf, "auto")
    if config["zero_optimization"]["stage"] == 3:
        # Without it `save_model` writes no weights.
        config["zero_optimization"].setdefault("stage3_gather_16bit_weights_on_model_save", True)
    if on_cpu:
        use_cpu_ranks(config, values)
    values["deepspeed"] = config


def check_consistency(config: dict[str, Any], values: dict[str, Any], world_size: int) -> None:
    """Compare a DeepSpeed JSON with field values of `TrainingArguments` and the launcher's; `"auto"` always agrees.

    Raises:
        ValueError: one line with every conflict, each with its remedy.
    """
    conflicts = [f"`{key}` block: {reason}" for key, reason in REFUSED_BLOCKS.items() if key in config]
    blocks = ("zero_optimization", "bf16", "fp16")
    conflicts += [f"`{key}` is no JSON object" for key in blocks if not isinstance(config.get(key, {}), dict)]
    for key, (expected, flags) in expected_values(values, world_size).items():
        found = get(config, key)
        if found not in (None, "auto", expected):
            conflicts.append(f'`{key}` is {json.dumps(found)}, but {flags}: write "auto"')
    stage = get(config, "zero_optimization.stage")
    gather = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
    if stage == 3 and get(config, gather) is False:
        conflicts.append(f"`{gather}` is false: no weights would be saved at the end, write true")
    if type(stage) is not int or not 0 <= stage <= 3:  # nor "auto": accelerate would take 2 by itself
        conflicts.append(f"`zero_optimization.stage` is {json.dumps(stage)}: write 0, 1, 2 or 3")
        stage = 3
    for part, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        key = f"zero_optimization.{part}.device"
        device = get(config, key)
        if device not in (None, "none", "cpu", "nvme"):  # nor "auto": accelerate would take none by itself
            conflicts.append(f"`{key}` is {json.dumps(device)}: write none, cpu or nvme")
        elif device in ("cpu", "nvme") and stage < lowest:
            conflicts.append(f'`{key}` is "{device}" in stage {stage}: needs stage {lowest} or higher')
    conflicts += [
        f"`{flag}` of accelerate launch is overruled by the JSON: remove it"
        for variable, flag in LAUNCHER_FLAGS.items()
        if variable in os.environ
    ]
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no" and not values.get(precision):
        conflicts.append(f"`accelerate launch --mixed_precision {precision}` without `--{precision}`: launch with no")
    if conflicts:
        raise ValueError("; ".join(conflicts))


def expected_values(values: dict[str, Any], world_size: int) -> dict[str, tuple[Any, str]]:
    """The keys that `TrainingArguments` decides too: its value, and the flags it comes from."""
    values = {field.name: field.default for field in fields(TrainingArguments)} | values
    flags = {name: f"`--{name}` is {value}" for name, value in values.items()}
    batch, accumulation = values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
    batch_flag, accumulation_flag = flags["per_device_train_batch_size"], flags["gradient_accumulation_steps"]
    total = batch * accumulation * world_size
    return {
        "train_batch_size": (total, f"{batch_flag}, {accumulation_flag} and {world_size} ranks make {total}"),
        "train_micro_batch_size_per_gpu": (batch, batch_flag),
        "gradient_accumulation_steps": (accumulation, accumulation_flag),
        "gradient_clipping": (values["max_grad_norm"], flags["max_grad_norm"]),
        "bf16.enabled": (bool(values["bf16"] or values["bf16_full_eval"]), flags["bf16"]),
        "fp16.enabled": (bool(values["fp16"] or values["fp16_full_eval"]), flags["fp16"]),
    }


def get(config: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def adopt_launcher_config(values: dict[str, Any]) -> None:
    """Take the JSON that `accelerate launch` was given; stop where accelerate would make up one of its own."""
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if path and values.get("deepspeed") not in (None, path):
        raise ValueError(f"`--deepspeed_config_file` `{path}` beside another `--deepspeed`: name one JSON")
    values["deepspeed"] = values.get("deepspeed") or path
    if not values["deepspeed"]:
        raise ValueError(
            "`accelerate launch --use_deepspeed` without a JSON: add `--deepspeed ds_configs/zero2.json`, or launch "
            "without `--use_deepspeed`"
        )
