"""Checks that DeepSpeed is in force, and gathers the weights of ZeRO-3 for evaluation."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback

logger = logging.getLogger(__name__)


class DeepSpeedInForce(TrainerCallback):
    """Stops a run that does not use DeepSpeed as it was asked for. Without `--deepspeed` it does nothing.

    When the Trainer has wrapped the model, this callback checks the engine, its ZeRO stage, the devices of offloaded
    tensors, and that each rank holds only its share of the optimizer state (in stage 3 of the parameters too). It logs
    one line with the number of elements that each rank holds.

    Args:
        trainer: the Trainer that the callback is added to.

    Raises:
        RuntimeError: the message says what was asked for and what is in force.

    Example:
        >>> trainer = Trainer(model, args, train_dataset=rows)
        >>> trainer.add_callback(DeepSpeedInForce(trainer))
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not args.deepspeed:
            return
        from deepspeed import DeepSpeedEngine

        setting = args.hf_deepspeed_config.get_value
        asked = {
            "stage": setting("zero_optimization.stage"),
            "offload_optimizer": setting("zero_optimization.offload_optimizer.device", "none"),
            "offload_param": setting("zero_optimization.offload_param.device", "none"),
        }
        engine = self.trainer.model_wrapped
        if not isinstance(engine, DeepSpeedEngine):
            raise RuntimeError(f"asked for DeepSpeed {asked}, but the model is a {type(engine).__name__} without it")
        in_force = {
            "stage": engine.zero_optimization_stage(),
            "offload_optimizer": offload_device(engine, "offload_optimizer"),
            "offload_param": offload_device(engine, "offload_param"),
        }
        if in_force != asked:
            raise RuntimeError(f"asked for DeepSpeed {asked}, but {in_force} is in force")
        sizes = partition_sizes(engine, asked["stage"])
        if state.is_world_process_zero:
            logger.info(
                f"DeepSpeed in force: {type(engine).__name__}, ZeRO {in_force}, {args.world_size} ranks on "
                f"{args.device}, {engine.get_data_types()[0]}; elements held by each rank: {sizes}"
            )


def offload_device(engine: Any, block: str) -> str:
    """Return the device of offloaded tensors: none, cpu or nvme; with the real one if the tensors are elsewhere.

    Args:
        block: of the JSON, `offload_optimizer` or `offload_param`.
    """
    config = engine.zero_offload_optimizer() if block == "offload_optimizer" else engine.zero_offload_param()
    if config is None or config.device == "none":
        return "none"
    if block == "offload_param":
        tensor = max(engine.module.parameters(), key=lambda parameter: parameter.ds_numel).ds_tensor
    elif engine.zero_optimization_stage() == 3:
        tensor = engine.optimizer.fp32_partitioned_groups_flat[0]
    else:
        tensor = engine.optimizer.optimizer.param_groups[0]["params"][0]
    return config.device if tensor.device.type == "cpu" else f"{config.device}, but tensors on {tensor.device}"


def partition_sizes(engine: Any, stage: int) -> dict[str, list[int]]:
    """Count the elements of the optimizer state (in stage 3 of the parameters too) that each rank holds.

    Returns:
        For `optimizer` and `parameters` the number of elements on each rank.

    Raises:
        RuntimeError: a rank holds more than its share, or elements are missing.
    """
    sizes = {}
    for name, (held, total, tensors) in count_elements(engine, stage).items():
        group = engine.optimizer.dp_process_group
        ranks = torch.distributed.get_world_size(group)
        sizes[name] = [0] * ranks
        torch.distributed.all_gather_object(sizes[name], held, group)
        # Each tensor is padded: to a multiple of the ranks in stage 3, of twice the ranks in stages 1 and 2.
        if sum(sizes[name]) < total or max(sizes[name]) > math.ceil(total / ranks) + 2 * tensors:
            raise RuntimeError(
                f"asked for ZeRO stage {stage} on {ranks} ranks, but of the {total} elements of the {name} they hold "
                f"{sizes[name]}"
            )
    return sizes


def count_elements(engine: Any, stage: int) -> dict[str, tuple[int, int, int]]:
    """Count the elements of the optimizer state (in stage 3 of the parameters too) that this rank holds.

    Returns:
        For `optimizer` and `parameters`: elements on this rank, elements on all ranks, and the number of tensors that
        are partitioned and padded each by itself. Empty in stage 0.
    """
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
def gathered_weights(model: Any) -> Iterator[tuple[Any, bool]]:
    """Gather all weights of a ZeRO-3 model on every rank, if they fit, so that it can be called like a plain model.

    The engine's hooks, which would partition the weights again, are removed meanwhile. Without ZeRO-3 nothing is done.

    Args:
        model: a model, or the DeepSpeedEngine around it.

    Yields:
        The model without the engine, and whether its weights are still partitioned: all ranks must then call it
        together.
    """
    plain = getattr(model, "module", model)
    if not hasattr(model, "zero_optimization_stage") or model.zero_optimization_stage() != 3:
        yield plain, False
        return
    from deepspeed import zero

    if not fit_in_memory(plain):
        logger.info("Weights are gathered layer by layer: all of them together do not fit in the free memory")
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


def gathered_to_change(weights: list[torch.nn.Parameter]) -> contextlib.AbstractContextManager:
    """Gather weights that ZeRO-3 has partitioned while a model is built: what rank 0 changes becomes that of all."""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        return contextlib.nullcontext()
    from deepspeed import zero

    return zero.GatheredParameters(weights, modifier_rank=0)


def fit_in_memory(model: Any) -> bool:
    """Return whether all weights of a ZeRO-3 model fit in half of the free memory (bytes), on every rank."""
    needed = sum(parameter.ds_numel * parameter.element_size() for parameter in model.parameters())
    state = PartialState()
    if state.device.type == "cuda":
        free = torch.cuda.mem_get_info(state.device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // state.num_processes
    return all(gather_object([needed < free / 2]))


def keep_weights_tied(trainer: Trainer) -> None:
    """Save tied weights once: accelerate copies every tensor of a DeepSpeed model, and copies are not seen as tied."""
    accelerator = trainer.accelerator
    get_state_dict, tied = accelerator.get_state_dict, getattr(trainer.model, "all_tied_weights_keys", {})

    def get_tied_state_dict(model: Any, unwrap: bool = True) -> Any:
        state: Any = get_state_dict(model, unwrap)  # None on other ranks than 0 in stage 3
        if state:
            state |= {name: state[source] for name, source in tied.items() if {name, source} <= state.keys()}
        return state

    accelerator.get_state_dict = get_tied_state_dict
