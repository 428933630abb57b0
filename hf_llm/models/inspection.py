"""What can be asked of a model: its size, its positions, what its forward pass takes."""

import inspect
import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel, TrainingArguments


def within_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, where PEFT stands around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether `position_ids` can be given to the model."""
    return "position_ids" in inspect.signature(type(within_adapters(model)).forward).parameters


def can_skip_prompts(model: PreTrainedModel, args: TrainingArguments) -> bool:
    """Whether the model takes a mask of the logits that its loss needs.

    Not with a loss that wants all logits, as Liger's, nor where one process cuts batches for several devices: by their
    rows, and `shift_labels` has none.
    """
    config = model.config.get_text_config()
    wants_all = args.use_liger_kernel or args.label_smoothing_factor or getattr(config, "z_loss_coefficient", 0)
    if wants_all or args.torch_compile or args.n_gpu > 1 or args.accelerator_config.dispatch_batches:
        return False
    forward = inspect.getsource(type(within_adapters(model)).forward)
    return "slice_logits_to_keep(" in forward and "self.loss_function(" in forward


def num_positions(model: torch.nn.Module) -> float:
    """How many tokens the model can tell the places of; infinite where it does not say."""
    plain = getattr(model, "module", model)  # within a DeepSpeedEngine, whose `config` is DeepSpeed's
    return getattr(plain.config.get_text_config(), "max_position_embeddings", None) or math.inf


def count_parameters(model: PreTrainedModel, trained: bool = False) -> int:
    """Parameters, or those that are trained, also where ZeRO-3 has left only a part of each on this rank."""
    parameters = [p for p in model.parameters() if p.requires_grad or not trained]
    return sum(getattr(p, "ds_numel", p.numel()) for p in parameters)


def kind_of(name: str) -> type:
    """The class, one of `KINDS`, that a saved model is loaded by; one that is not local is taken for a causal one."""
    config = Path(name).expanduser() / "config.json"
    architectures = json.loads(config.read_text()).get("architectures") if config.is_file() else None
    masked = any(architecture.endswith("ForMaskedLM") for architecture in architectures or ())
    return AutoModelForMaskedLM if masked else AutoModelForCausalLM
