"""`TrainingArguments` of a recipe, with what would fail or be ignored later checked at the start."""

import inspect
import logging
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DynamoBackend, parse_flag_from_env
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType
from transformers.utils import is_liger_kernel_available

from hf_llm.arguments import TRAINER_DEFAULTS
from hf_llm.distributed.deepspeed_config import prepare_deepspeed
from hf_llm.distributed.ranks import check_started_processes
from hf_llm.hardware import has_bfloat16, share_cores
from hf_llm.mappings import parse_mapping, read_json_object
from hf_llm.messages import disable_progress_bars, one_line
from hf_llm.metrics import lower_is_better

logger = logging.getLogger(__name__)

PACKAGES = {"azure_ml": "azureml-sdk", "flyte": "flytekit"}  # of trackers with another name
# Fields whose other values are refused: the only one that a recipe works with, and what to do instead.
ONLY_VALUES: dict[str, tuple[Any, str]] = {
    "remove_unused_columns": (False, "the collator reads the lengths, which the model does not take: leave it out"),
    "include_num_input_tokens_seen": ("non_padding", "the throughput needs the number of tokens: leave it out"),
    "batch_eval_metrics": (True, "the losses of all batches would not fit into memory: leave it out"),
    "prediction_loss_only": (
        False,
        "the perplexity needs the loss of each token: leave it out",
    ),
    "include_for_metrics": ([], "the metrics need the loss of each token only: leave it out"),
    "use_cache": (False, "with a cache, packed documents see each other: leave it out"),
    "label_names": (None, "the rows have the column `labels`: leave it out"),
    "eval_use_gather_object": (False, "the losses are gathered as tensors: leave it out"),
    "dataloader_in_order": (True, "the order of the rows would be another in every run: leave it out"),
    "auto_find_batch_size": (
        False,
        "it would change the number of rows per step: give a smaller `--per_device_train_batch_size` and more "
        "`--gradient_accumulation_steps`",
    ),
    "enable_jit_checkpoint": (
        False,
        "it would save at SIGTERM without a manifest, and without one a checkpoint is not resumed from: leave it out, "
        "and give a smaller `--save_steps`",
    ),
    "fsdp": (None, "shard the model with `--deepspeed ds_configs/zero3.json`"),
    "fsdp_config": (None, "shard the model with `--deepspeed ds_configs/zero3.json`"),
    "parallelism_config": (None, "shard the model with `--deepspeed ds_configs/zero3.json`"),
    "do_predict": (False, "recipes/eval.py writes the predictions of a model for a `--validation_file`"),
}
# The same for `--accelerator_config`.
ONLY_ACCELERATOR_VALUES = {"split_batches": False, "even_batches": True, "use_configured_state": False}
# Variables of `accelerate launch`, and the option that sets them.
REFUSED_LAUNCHES = {
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
}


def build_training_arguments(values: dict[str, Any], script: str = "SCRIPT") -> TrainingArguments:
    """Make `TrainingArguments` without the Hub token, with DeepSpeed prepared, in a precision that the hardware has.

    Args:
        values: all their fields by name; None for `bf16`, `do_train` and `do_eval`: not given.
        script: named in the launch commands that error messages suggest.

    Raises:
        ValueError: a value that would be ignored or would fail later: see `ONLY_VALUES` and the functions that check;
            a tracker is not installed; the push would fail; or the DeepSpeed configuration is inconsistent.
    """
    if token := values.pop("hub_token"):
        # huggingface_hub reads it from here; in the arguments it would be written to training_args.bin and pushed.
        os.environ["HF_TOKEN"] = token
    check_only_values(values)
    check_what_to_do(values)
    check_trackers(values["report_to"])
    on_cpu = values["use_cpu"] or not torch.accelerator.is_available()
    check_launcher(values, on_cpu, script)
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
    # Private by default, a tracker's Space too: what is published by mistake cannot be taken back.
    values["hub_private_repo"] = values["hub_private_repo"] is not False
    check_direction(values)
    check_model_options(values)
    if values["eval_steps"] is None and values["logging_steps"] == TRAINER_DEFAULTS["logging_steps"]:
        values["eval_steps"] = 500  # or it would be that of the log, which is made for a curve
    check_accelerator_config(values)
    args = TrainingArguments(**values)
    check_schedule(args, check_optimizer(args))
    return args


def check_only_values(values: dict[str, Any]) -> None:
    """Raise an error for a value that a recipe would ignore, or that would break it later."""
    for name, (value, reason) in ONLY_VALUES.items():
        if values[name] != value:
            raise ValueError(f"`--{name}` {values[name]} is not supported: {reason}")
    if "tpu_metrics_debug" in (values["debug"] or ()):
        raise ValueError("`--debug` tpu_metrics_debug needs a TPU, which recipes do not support: leave it out")


def check_what_to_do(values: dict[str, Any]) -> None:
    """Refuse to train where `--do_train` and `--do_eval`, as other scripts read them, ask for something else."""
    train, evaluate = values["do_train"], values["do_eval"]
    if train is False or (evaluate and train is None):
        asked = "`--do_train false`" if train is False else "`--do_eval` without `--do_train`"
        raise ValueError(
            f"{asked}: this recipe always trains, recipes/eval.py only evaluates; give `--do_train` or none"
        )
    if evaluate is False:
        raise ValueError(
            "`--do_eval false`: the recipe always evaluates once, after training: leave it out, or limit the rows with "
            "`--max_eval_samples`"
        )
    values["do_train"] = values["do_eval"] = True


def check_trackers(names: str | list[str] | None) -> None:
    """Raise an error at the start for a tracker that transformers does not know, or that is not installed."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    names = [names] if isinstance(names, str) else names or []
    if names in (["none"], ["all"]):
        return
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(["none", "all", *INTEGRATION_TO_CALLBACK])
            raise ValueError(f"`--report_to` {name} is not a tracker: give {known}; none and all stand alone")
        if name not in get_available_reporting_integrations():
            raise ValueError(
                f"`--report_to` {name} is not installed: `pip install {PACKAGES.get(name, name)}`, or give none"
            )


def check_launcher(values: dict[str, Any], on_cpu: bool, script: str) -> None:
    """Check what `accelerate launch` asks for, and take its precision if none is given.

    Raises:
        ValueError: it would not be in force, or contradicts the arguments.
    """
    for variable, option in REFUSED_LAUNCHES.items():
        if parse_flag_from_env(variable):
            raise ValueError(f"`accelerate launch {option}` is not supported: use `--deepspeed ds_configs/zero3.json`")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "bf16" and values["bf16"] is None and not values["fp16"]:
        values["bf16"] = True
    if precision != "no" and not values.get(precision):
        raise ValueError(
            f"`accelerate launch --mixed_precision {precision}` without `--{precision}`: launch with no, and choose by "
            "`--bf16` or `--fp16`"
        )
    if os.environ.get("ACCELERATE_CONFIG_DS_FIELDS") == "mixed_precision":  # of the file of `accelerate config`
        del os.environ["ACCELERATE_CONFIG_DS_FIELDS"]  # accelerate refuses it with a JSON file, and it is in force
    if values["fp16"] and on_cpu and not values["deepspeed"]:
        raise ValueError("`--fp16` needs a GPU: on CPU use `--bf16`, or float32")
    if not values["deepspeed"]:
        check_started_processes(on_cpu, script)
    if values["ddp_backend"] and "RANK" not in os.environ:
        raise ValueError("`--ddp_backend` has no effect on one process: leave it out, or start several with torchrun")
    if on_cpu and values["ddp_backend"] not in (None, "gloo", "mpi"):
        raise ValueError(f"`--ddp_backend` {values['ddp_backend']} needs a GPU: leave it out")


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


def check_direction(values: dict[str, Any]) -> None:
    """Set `greater_is_better` for scores that should decrease, and refuse what would keep the worst model."""
    if values["save_strategy"] == "best":
        if values["eval_strategy"] == "no":
            raise ValueError("`--save_strategy best` needs evaluations to compare: add `--eval_strategy epoch`")
        values["metric_for_best_model"] = values["metric_for_best_model"] or "loss"
    metric = (values["metric_for_best_model"] or "loss").removeprefix("eval_")
    if not lower_is_better(metric):
        return
    if values["greater_is_better"]:
        raise ValueError(f"`--greater_is_better true` would keep the model with the highest {metric}: leave it out")
    if values["metric_for_best_model"]:
        # The Trainer assumes that every score other than a loss should increase.
        values["greater_is_better"] = False


def check_model_options(values: dict[str, Any]) -> None:
    """Refuse options of the model's computation that would be ignored, or fail at the first step."""
    for end in ("", "_kwargs"):  # gradient_checkpointing is the old name, of which transformers warns
        if (old := values[f"gradient_checkpointing{end}"]) is not None:
            values[f"activation_checkpointing{end}"] = values[f"activation_checkpointing{end}"] or old
            values[f"gradient_checkpointing{end}"] = None
    options = values["activation_checkpointing_kwargs"] or {}
    if options and not values["activation_checkpointing"]:
        raise ValueError("`--activation_checkpointing_kwargs` has no effect without `--activation_checkpointing`")
    known = {*inspect.signature(torch.utils.checkpoint.checkpoint).parameters, "preserve_rng_state"}
    known = known - {"function", "args", "kwargs"} | {"every_n_layers", "offload"}
    if unknown := sorted(options.keys() - known):
        raise ValueError(
            f"`--activation_checkpointing_kwargs` {unknown[0]} is unknown: give {', '.join(sorted(known))}"
        )
    if values["use_liger_kernel"] and not is_liger_kernel_available():
        raise ValueError("`--use_liger_kernel` needs a package: `pip install liger-kernel`")
    backend, mode = values["torch_compile_backend"], values["torch_compile_mode"]
    if backend and backend.upper() not in DynamoBackend.list():
        known_backends = ", ".join(DynamoBackend.list()).lower()
        raise ValueError(f"`--torch_compile_backend` {backend} is unknown: give one of {known_backends}")
    if mode and mode not in (modes := torch._inductor.list_mode_options()):
        raise ValueError(f"`--torch_compile_mode` {mode} is unknown: give one of {', '.join(modes)}")


def check_accelerator_config(values: dict[str, Any]) -> None:
    """Read `--accelerator_config`, and refuse what would change the rows of a step, or let ranks wait forever."""
    if not values["accelerator_config"] or values["deepspeed"]:  # read and completed for DeepSpeed on CPU ranks
        return
    name, config = read_json_object(values["accelerator_config"], "--accelerator_config")
    known = AcceleratorConfig.__dataclass_fields__
    for key, value in config.items():
        if key not in known:
            raise ValueError(f"{name}: unknown key `{key}`: give {', '.join(known)}")
        if value != ONLY_ACCELERATOR_VALUES.get(key, value):
            raise ValueError(
                f"{name}: `{key}` {value} is not supported, as every rank reads its own batches: remove it"
            )
    values["accelerator_config"] = config


def check_optimizer(args: TrainingArguments) -> torch.optim.Optimizer | None:
    """Make the optimizer for one number, so that what it does not accept is found before the data are read.

    Returns:
        The optimizer; None if it can only be made for a model.

    Raises:
        ValueError: it is not installed or does not accept a setting, or a setting would have no effect on it.
    """
    name = args.optim.value
    low_rank = name.startswith(("galore", "apollo"))
    if low_rank and not args.optim_target_modules:
        raise ValueError(f"`--optim` {name} needs `--optim_target_modules`: give it, e.g. all-linear")
    if args.optim_target_modules and not low_rank:
        raise ValueError(f"`--optim_target_modules` has no effect on `--optim` {name}: leave it out")
    options = parse_mapping("--optim_args", args.optim_args, text_values=True) if args.optim_args else {}
    try:
        make, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        for key in options:
            others = {other: value for other, value in options.items() if other != key}
            if settings == optimizer_settings(args, others):
                raise ValueError(f"{key} has no effect on it: leave it out")
        return make([torch.nn.Parameter(torch.zeros(1))], **settings) if isinstance(make, type) else None
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        if low_rank and isinstance(error, ValueError):
            return None  # the model is missing
        named = f"`--optim` {name}" + (f" with `--optim_args` {args.optim_args}" if options else "")
        raise ValueError(f"{named}: {one_line(error)}") from None


def optimizer_settings(args: TrainingArguments, options: dict[str, str]) -> dict[str, Any]:
    """Return the optimizer's keyword arguments with other `--optim_args`."""
    original, args.optim_args = args.optim_args, ",".join(f"{key}={value}" for key, value in options.items())
    try:
        return Trainer.get_optimizer_cls_and_kwargs(args)[1]
    finally:
        args.optim_args = original


def check_schedule(args: TrainingArguments, optimizer: torch.optim.Optimizer | None) -> None:
    """Make the schedule for any number of steps, and refuse what it would ignore or not accept.

    Raises:
        ValueError: the keyword arguments do not fit.
    """
    name = args.lr_scheduler_type.value
    options: Any = args.lr_scheduler_kwargs or {}
    if options and name.startswith("constant"):
        raise ValueError(f"`--lr_scheduler_kwargs` has no effect on `--lr_scheduler_type` {name}: leave it out")
    if args.warmup_steps and name in ("constant", "reduce_lr_on_plateau", "greedy"):
        logger.warning(f"`--lr_scheduler_type` {name} has no warmup: `--warmup_steps` has no effect")
    optimizer = optimizer or torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], args.learning_rate)
    try:
        options = options | default_decay(args, 1000)
        get_scheduler(name, optimizer, args.get_warmup_steps(1000), 1000, options)
    except (TypeError, ValueError) as error:
        message = one_line(error).replace("()", "")
        raise ValueError(f"`--lr_scheduler_kwargs` {options} for `--lr_scheduler_type` {name}: {message}") from None


def default_decay(args: TrainingArguments, steps: int) -> dict[str, int]:
    """Return the decay of `--lr_scheduler_type warmup_stable_decay` where none is given: a fifth of the steps.

    Example:
        warmup_stable_decay, 100 steps -> {"num_decay_steps": 20}
    """
    if args.lr_scheduler_type != SchedulerType.WARMUP_STABLE_DECAY or "num_decay_steps" in (
        args.lr_scheduler_kwargs or {}
    ):
        return {}
    return {"num_decay_steps": max(1, min(round(0.2 * steps), steps - args.get_warmup_steps(steps)))}
