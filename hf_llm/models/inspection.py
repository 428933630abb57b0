"""Questions about a model: its size, its positions, what its forward pass takes."""

import inspect
import math
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.utils import ModelOutput

from hf_llm.mappings import read_json_file


def unwrap_adapters(model: Any) -> PreTrainedModel:
    """Return the transformers model inside a PEFT model; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether the forward pass takes `position_ids`."""
    return "position_ids" in inspect.signature(type(unwrap_adapters(model)).forward).parameters


def can_skip_prompts(model: PreTrainedModel, args: TrainingArguments) -> bool:
    """Return whether the model can compute logits only where a label follows, as `PackingCollator(skip_prompts=True)`.

    Some losses need all logits, e.g. Liger's. Where one process divides batches among several devices, it divides all
    inputs by rows, and `shift_labels` has no rows.
    """
    config = model.config.get_text_config()
    needs_all = args.use_liger_kernel or args.label_smoothing_factor or getattr(config, "z_loss_coefficient", 0)
    if needs_all or args.torch_compile or args.n_gpu > 1 or args.accelerator_config.dispatch_batches:
        return False
    forward = inspect.getsource(type(unwrap_adapters(model)).forward)
    return "slice_logits_to_keep(" in forward and "self.loss_function(" in forward


def outputs_besides_logits(model: PreTrainedModel) -> list[str]:
    """Name all that the model may return besides its logits, for `Trainer.evaluate(ignore_keys=...)`.

    What else a model returns, and in which order, depends on the architecture and its config: the first output of a
    mixture of experts may be the loss of its routers.
    """
    values = vars(sys.modules[type(unwrap_adapters(model)).__module__]).values()
    outputs = [value for value in values if isinstance(value, type) and issubclass(value, ModelOutput)]
    return sorted({name for output in outputs for name in getattr(output, "__dataclass_fields__", ())} - {"logits"})


def num_positions(model: Any) -> float:
    """Return how many positions the model has, in tokens; infinity where its config does not say."""
    plain = getattr(model, "module", model)  # a DeepSpeedEngine's own `config` is DeepSpeed's
    return getattr(plain.config.get_text_config(), "max_position_embeddings", None) or math.inf


def first_position(model: PreTrainedModel) -> int:
    """Return the position of a text's first token: 0, but one after the padding's position in RoBERTa and the like.

    With padding index 1, RoBERTa numbers the positions of three tokens 2, 3, 4.
    """
    tables = (module for name, module in model.named_modules() if name.endswith("embeddings.position_embeddings"))
    padding = getattr(next(tables, None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def count_parameters(model: torch.nn.Module, trained: bool = False) -> int:
    """Count the parameters of the whole model, of which a rank holds only a share under ZeRO-3.

    Args:
        trained: count only those with gradients.
    """
    parameters = [p for p in model.parameters() if p.requires_grad or not trained]
    return sum(getattr(p, "ds_numel", p.numel()) for p in parameters)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: str) -> list[int]:
    """Ids of the tokens that end an answer: those that the model stops at, the tokenizer's, and `end`."""
    known: Any = model.generation_config.eos_token_id  # pyright: ignore[reportOptionalMemberAccess]  # it generates
    own: Any = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids([end])]  # pyright: ignore[reportGeneralTypeIssues]
    return sorted({*(known if isinstance(known, list) else [known]), *own} - {None})


def detect_auto_class(name: str) -> type:
    """Return the auto class that loads a saved model: of masked or causal models, or those with a classification head.

    Args:
        name: folder of the model. Names on the Hub are not looked up and count as causal models.
    """
    folder = Path(name).expanduser()
    config, adapter = folder / "config.json", folder / "adapter_config.json"
    architectures = read_json_file(config).get("architectures") if config.is_file() else None
    named = " ".join(map(str, architectures or ()))
    if "ForSequenceClassification" in named or (
        adapter.is_file() and read_json_file(adapter)["task_type"] == "SEQ_CLS"
    ):
        return AutoModelForSequenceClassification
    return AutoModelForMaskedLM if "ForMaskedLM" in named else AutoModelForCausalLM
