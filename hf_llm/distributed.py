"""One DeepSpeed JSON, consistent with `TrainingArguments` and really in force, on GPUs and on several CPU ranks."""

import contextlib
import copy
import json
import logging
import math
import os
import socket
import sys
import warnings
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, get_int_from_env, parse_flag_from_env
from transformers import Trainer, TrainerCallback, TrainingArguments

logger = logging.getLogger(__name__)

LAUNCH = "accelerate launch --use_deepspeed --num_processes {} {} ..."

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


def read_json(value: str | dict[str, Any], flag: str) -> tuple[str, dict[str, Any]]:
    """Name for messages, and the object: from a file, from JSON on the command line, or a dict as it is."""
    if isinstance(value, dict):
        return f"`{flag}`", copy.deepcopy(value)
    inline = value.lstrip().startswith("{")
    name = f"`{flag}`" if inline else f"`{flag}` `{value}`"
    try:
        text = value if inline else Path(value).read_text(encoding="utf-8")
        config = json.loads(text, object_pairs_hook=without_duplicates)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {error.lineno}, column {error.colno}, is no JSON: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} holds a JSON {type(config).__name__}: write one object, {{...}}")
    return name, config


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"`{next(key for key in keys if keys.count(key) > 1)}` appears twice in one object: keep one")
    return dict(pairs)


def set_up_ranks(on_cpu: bool, asked_for_cpu: bool) -> None:
    """Stop where a launcher is missing or starts too few; on one device, make this process the only rank."""
    script = sys.argv[0]
    if asked_for_cpu and not on_cpu:
        command = LAUNCH.format(2, script)
        raise ValueError(
            f"`--use_cpu` does not move DeepSpeed off the GPUs: hide them, CUDA_VISIBLE_DEVICES= {command}"
        )
    if "RANK" in os.environ:
        return
    if on_cpu and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise ValueError(
            "`accelerate launch` without `--use_deepspeed` starts one process on CPU, whatever `--num_processes` "
            f"says: {LAUNCH.format(2, script)}"
        )
    mpi_ranks = get_int_from_env(["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"], 1)
    ranks = max(mpi_ranks, 1 if on_cpu else torch.accelerator.device_count())
    if ranks > 1:
        raise ValueError(
            f"`--deepspeed` on {ranks} devices needs a launcher: {LAUNCH.format(ranks, script)} (to use one of them: "
            f"CUDA_VISIBLE_DEVICES=0 python {script} ...)"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)


def use_cpu_ranks(config: dict[str, Any], values: dict[str, Any]) -> None:
    """Start gloo, and change what is meant for GPUs."""
    if values.get("fp16"):
        raise ValueError("`--fp16` needs a GPU: on CPU ranks use `--bf16`, or float32")
    os.environ.update(DS_ACCELERATOR="cpu", ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_USE_CPU="false")
    import deepspeed

    # Shared-memory collectives serve tensor-parallel inference only, and want a compiler and a minute at first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(backend="gloo", timeout=timedelta(seconds=values.get("ddp_timeout", 1800)))
    _, accelerator_config = read_json(values.get("accelerator_config") or {}, "--accelerator_config")
    values["accelerator_config"] = accelerator_config | {"use_configured_state": True}
    # Beside a configured state use_cpu cannot switch DeepSpeed off; it lets bf16 through and pins no memory.
    values["use_cpu"] = True
    # DeepSpeed calls gloo by names that torch calls outdated, with a line on stderr at every call.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    config["zero_optimization"]["overlap_comm"] = False  # needs streams
    # The weights are on the CPU anyway: torch's AdamW needs no compiler, as DeepSpeedCPUAdam does.
    config.setdefault("zero_force_ds_cpu_optimizer", False)


def share_cores() -> None:
    """Give each CPU rank its share of the cores.

    `accelerate launch` and torchrun set OMP_NUM_THREADS to 1 where the user said nothing, and a run of one rank would
    leave all cores but one idle.
    """
    launched = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    if launched and os.environ.get("OMP_NUM_THREADS") == "1":
        threads = max(1, len(os.sched_getaffinity(0)) // get_int_from_env(["LOCAL_WORLD_SIZE"], 1))
        torch.set_num_threads(threads)
        logger.info(f"CPU: {get_int_from_env(['WORLD_SIZE'], 1)} rank(s), {threads} threads in each")


class DeepSpeedInForce(TrainerCallback):
    """Stops a run in which the DeepSpeed that was asked for is not the one at work. Without `--deepspeed`: nothing.

    Looks, once the Trainer has wrapped the model, at the engine, its ZeRO stage, where offloaded tensors are, and
    whether each rank holds its own part of the optimizer (in stage 3 of the parameters too).

    Example:
        >>> trainer = Trainer(model, args, train_dataset=rows)
        >>> trainer.add_callback(DeepSpeedInForce(trainer))

    Raises:
        RuntimeError: what was asked for, and what is in force.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not args.deepspeed:
            return
        from deepspeed import DeepSpeedEngine

        asked = {
            "stage": args.hf_deepspeed_config.get_value("zero_optimization.stage"),
            "offload_optimizer": args.hf_deepspeed_config.get_value(
                "zero_optimization.offload_optimizer.device", "none"
            ),
            "offload_param": args.hf_deepspeed_config.get_value("zero_optimization.offload_param.device", "none"),
        }
        engine = self.trainer.model_wrapped
        if not isinstance(engine, DeepSpeedEngine):
            raise RuntimeError(f"asked for DeepSpeed {asked}, in force is none: the model is a {type(engine).__name__}")
        in_force = {
            "stage": engine.zero_optimization_stage(),
            "offload_optimizer": offload_device(engine, "offload_optimizer"),
            "offload_param": offload_device(engine, "offload_param"),
        }
        if in_force != asked:
            raise RuntimeError(f"asked for DeepSpeed {asked}, in force is {in_force}")
        sizes = partition_sizes(engine, asked["stage"])
        if state.is_world_process_zero:
            logger.info(
                f"DeepSpeed in force: {type(engine).__name__}, ZeRO {in_force}, {args.world_size} ranks on "
                f"{args.device}, {engine.get_data_types()[0]}; elements held by each rank: {sizes}"
            )


def offload_device(engine: Any, part: str) -> str:
    """Where `offload_optimizer` or `offload_param` has put its tensors: none, cpu or nvme."""
    config = engine.zero_offload_optimizer() if part == "offload_optimizer" else engine.zero_offload_param()
    if config is None or config.device == "none":
        return "none"
    if part == "offload_param":
        tensor = max(engine.module.parameters(), key=lambda parameter: parameter.ds_numel).ds_tensor
    elif engine.zero_optimization_stage() == 3:
        tensor = engine.optimizer.fp32_partitioned_groups_flat[0]
    else:
        tensor = engine.optimizer.optimizer.param_groups[0]["params"][0]
    return config.device if tensor.device.type == "cpu" else f"{config.device}, but tensors on {tensor.device}"


def partition_sizes(engine: Any, stage: int) -> dict[str, list[int]]:
    """Elements of the optimizer (in stage 3 of the parameters too) on each rank.

    Raises:
        RuntimeError: a rank holds more than its share, or elements are missing.
    """
    sizes = {}
    for name, (held, total, parts) in held_elements(engine, stage).items():
        group = engine.optimizer.dp_process_group
        ranks = torch.distributed.get_world_size(group)
        sizes[name] = [0] * ranks
        torch.distributed.all_gather_object(sizes[name], held, group)
        # Each part is padded: to a multiple of the ranks in stage 3, of twice the ranks in stages 1 and 2.
        if sum(sizes[name]) < total or max(sizes[name]) > math.ceil(total / ranks) + 2 * parts:
            raise RuntimeError(
                f"asked for ZeRO stage {stage} on {ranks} ranks, but of the {total} elements of the {name} they hold "
                f"{sizes[name]}"
            )
    return sizes


def held_elements(engine: Any, stage: int) -> dict[str, tuple[int, int, int]]:
    """On this rank: elements held, elements in the whole model, and the parts they are divided in, one by one."""
    parameters = list(engine.module.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if stage == 0:
        return {}
    if stage < 3:
        groups = engine.optimizer.optimizer.param_groups
        held = sum(tensor.numel() for group in groups for tensor in group["params"])
        return {"optimizer": (held, sum(parameter.numel() for parameter in trained), len(groups))}
    held = sum(engine.optimizer.fp16_partitioned_groups_flat_numel)
    return {
        "optimizer": (held, sum(parameter.ds_numel for parameter in trained), len(trained)),
        "parameters": (
            sum(parameter.partition_numel() for parameter in parameters),
            sum(parameter.ds_numel for parameter in parameters),
            len(parameters),
        ),
    }


def shut_down() -> None:
    """Part from the other ranks, as the last act of a run that went well: a process group that outlives the
    interpreter may abort a finished run. Not for `finally`: a rank that failed would leave the others waiting here.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def gathered_weights(model: torch.nn.Module):
    """Under ZeRO-3 all weights on every rank, if they fit, so that a forward pass is that of the plain model.

    Without ZeRO-3, nothing happens. The engine's hooks are off meanwhile: they would part the weights again.

    Yields:
        The plain model; and whether its weights are still parted, so that all ranks must call it in step.
    """
    plain = getattr(model, "module", model)
    if not hasattr(model, "zero_optimization_stage") or model.zero_optimization_stage() != 3:
        yield plain, False
        return
    from deepspeed import zero

    if not fits(plain):
        logger.info("Weights are gathered layer by layer: all of them together do not fit in the memory that is free")
        yield plain, True
        return
    offload = model.optimizer.parameter_offload
    offload.partition_all_parameters()
    offload._remove_module_hooks()
    offload.forward_hooks.clear()
    offload.backward_hooks.clear()
    with zero.GatheredParameters(list(plain.parameters())):
        yield plain, False
    offload.setup_zero_stage3_hooks()


def fits(model: torch.nn.Module) -> bool:
    """Whether all weights of a ZeRO-3 model fit into half of the memory that is free, on the rank with the least."""
    needed = sum(parameter.ds_numel * parameter.element_size() for parameter in model.parameters())
    state = PartialState()
    if state.device.type == "cuda":
        free = torch.cuda.mem_get_info(state.device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // state.num_processes
    return all(gather_object([needed < free / 2]))
