"""One DeepSpeed JSON file, consistent with `TrainingArguments`, on GPUs and on CPU ranks."""

import json
import os
from dataclasses import fields
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from hf_llm.distributed.ranks import check_launch, set_single_rank, set_up_cpu_ranks
from hf_llm.mappings import read_json_object

REFUSED_BLOCKS = {
    "optimizer": "it would silently win over `--learning_rate`, `--weight_decay` and `--optim`: remove it",
    "scheduler": "it would silently win over `--lr_scheduler_type` and `--warmup_steps`: remove it",
    "bfloat16": "DeepSpeed ignores it if there is a `bf16` block: rename it to that",
}
# Settings of `accelerate launch` that a JSON overrules.
LAUNCHER_FLAGS = {
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "--zero_stage",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "--offload_optimizer_device",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "--offload_param_device",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--gradient_accumulation_steps",
    "ACCELERATE_GRADIENT_CLIPPING": "--gradient_clipping",
}


def prepare_deepspeed(values: dict[str, Any], script: str = "SCRIPT") -> None:
    """Change `values` and the environment in place so that `TrainingArguments(**values)` really runs DeepSpeed.

    The JSON is read, checked and completed, and this process becomes the only rank if there is no launcher. Without a
    GPU, the same JSON runs on CPU ranks over gloo. Without `--deepspeed`, nothing is changed.

    Args:
        values: field values of `TrainingArguments`; `deepspeed` becomes the complete JSON object.
        script: named in the launch commands that error messages suggest.

    Raises:
        ValueError: an unreadable JSON; conflicts with `values`, all in one line; a launch that would run without
            DeepSpeed, with a configuration that is in no file, or with fewer ranks than asked for.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        values["deepspeed"] = choose_config(values.get("deepspeed"))
    if not values.get("deepspeed"):
        return
    name, config = read_json_object(values["deepspeed"], "--deepspeed")
    on_cpu = not torch.accelerator.is_available()
    check_launch(on_cpu, values.get("use_cpu") or parse_flag_from_env("ACCELERATE_USE_CPU"), script)
    set_single_rank()
    try:
        check_consistency(config, values, int(os.environ["WORLD_SIZE"]))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    # DeepSpeed does not treat a missing key as "auto": it would not clip or accumulate, whatever the flags say.
    for key in expected_values(values, world_size=1):
        block, _, leaf = key.rpartition(".")
        (config.setdefault(block, {}) if block else config).setdefault(leaf, "auto")
    if config["zero_optimization"]["stage"] == 3:
        # Without it `save_model` writes no weights.
        config["zero_optimization"].setdefault("stage3_gather_16bit_weights_on_model_save", True)
    if on_cpu:
        set_up_cpu_ranks(config, values)
    values["deepspeed"] = config


def check_consistency(config: dict[str, Any], values: dict[str, Any], world_size: int) -> None:
    """Compare a DeepSpeed JSON with field values of `TrainingArguments` and the launcher's settings.

    `"auto"` agrees with every value.

    Raises:
        ValueError: one line with every conflict, each with its remedy.
    """
    conflicts = [f"`{key}` block: {reason}" for key, reason in REFUSED_BLOCKS.items() if key in config]
    blocks = ("zero_optimization", "bf16", "fp16")
    conflicts += [f"`{key}` is not a JSON object" for key in blocks if not isinstance(config.get(key, {}), dict)]
    for key, (expected, flags) in expected_values(values, world_size).items():
        value = get_dotted_key(config, key)
        if value not in (None, "auto", expected):
            conflicts.append(f'`{key}` is {json.dumps(value)}, but {flags}: write "auto"')
    stage = get_dotted_key(config, "zero_optimization.stage")
    gather = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
    if stage == 3 and get_dotted_key(config, gather) is False:
        conflicts.append(f"`{gather}` is false: no weights would be saved at the end, write true")
    if type(stage) is not int or not 0 <= stage <= 3:  # nor is "auto" allowed: accelerate would choose 2
        conflicts.append(f"`zero_optimization.stage` is {json.dumps(stage)}: write 0, 1, 2 or 3")
        stage = 3
    for block, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        key = f"zero_optimization.{block}.device"
        device = get_dotted_key(config, key)
        if device not in (None, "none", "cpu", "nvme"):  # nor is "auto" allowed: accelerate would choose none
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
    """Return the values of the JSON's keys that follow from `TrainingArguments`.

    Returns:
        For each dotted key the expected value, and the flags that it comes from, in words.
    """
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


def get_dotted_key(config: Any, key: str) -> Any:
    """Return the value at a dotted key such as `zero_optimization.stage`; None if it is missing."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def choose_config(deepspeed: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """Return `--deepspeed`, or else the JSON file that `accelerate launch --use_deepspeed` was started with.

    Raises:
        ValueError: both are named and differ; or neither is, and accelerate would use a configuration of its own.
    """
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if path and deepspeed not in (None, path):
        raise ValueError(f"`--deepspeed_config_file` is `{path}` and `--deepspeed` another file: name one JSON")
    if not (config := deepspeed or path):
        raise ValueError(
            "`accelerate launch --use_deepspeed` without a JSON: add `--deepspeed ds_configs/zero2.json`, or launch "
            "without `--use_deepspeed`"
        )
    return config
