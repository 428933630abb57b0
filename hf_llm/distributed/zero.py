"""Proof that DeepSpeed is in force, and the weights of ZeRO-3 gathered for evaluation."""

import contextlib
import logging
import math
import os
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback

logger = logging.getLogger(__name__)


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
