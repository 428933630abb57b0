"""Checks of the settings of a new model, before memory is used."""

import difflib
import logging
import os
from typing import Any

from transformers import PreTrainedConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from hf_llm.messages import format_size

logger = logging.getLogger(__name__)

NO_OVERRIDES = {  # settings of a config that would have no effect, or another one than expected
    "return_dict": "outputs are taken by their names: leave it out",
    **dict.fromkeys(
        ("dtype", "torch_dtype"), "a new model is trained in float32: `--save_dtype` has the precision to save it in"
    ),
}
POSITIVE = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"}
POSITIVE |= {"n_embd", "n_layer", "n_head", "n_positions"}


def check_overrides(overrides: dict[str, Any], default: PreTrainedConfig) -> None:
    """Check that each override is a setting of the architecture, and that no two are the same.

    Raises:
        ValueError: one is not, and the nearest is named; or it would have no effect, or is out of its bounds.
    """
    for key, remedy in NO_OVERRIDES.items():
        if key in overrides:
            raise ValueError(f"`--config_overrides` {key}: {remedy}")
    rotary = getattr(default, "rope_parameters", None) or {}  # `rope_theta` is accepted as a setting and kept in here
    for key, value in overrides.items():
        if not hasattr(default, key) and key not in rotary:
            near = difflib.get_close_matches(key, [*default.to_dict(), *default.attribute_map, *rotary], 1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ValueError(f"`--config_overrides` {key}: {default.model_type} has no such setting{hint}")
        same = default.attribute_map.get(key, key)
        if same in POSITIVE and isinstance(value, int) and value < 1:
            raise ValueError(f"`--config_overrides` {key}={value}: give a number of at least 1")
        if same != key and same in overrides:
            raise ValueError(f"`--config_overrides` has {key} and {same}, two names of one setting: keep one")
        if key.endswith(("dropout", "pdrop")) and isinstance(value, int | float) and not 0 <= value < 1:
            raise ValueError(f"`--config_overrides` {key}={value}: give a share of at least 0 and below 1")


def check_heads(config: PreTrainedConfig) -> None:
    """Refuse key-value heads that cannot be shared equally by the attention heads.

    Raises:
        ValueError: the number of the ones does not divide that of the others.
    """
    heads, shared = (getattr(config, f"num_{kind}_heads", None) for kind in ("attention", "key_value"))
    if isinstance(heads, int) and isinstance(shared, int) and (shared < 1 or heads % shared):
        raise ValueError(
            f"`--config_overrides`: num_key_value_heads={shared} does not divide num_attention_heads={heads}: give a "
            f"number that does, e.g. num_key_value_heads={max(heads, 1)}"
        )


def check_memory(config: PreTrainedConfig, parameters: int) -> None:
    """Log the size of a new model, and refuse one whose weights this machine cannot hold.

    Raises:
        ValueError: the float32 weights are larger than the machine's memory.
    """
    size, memory = 4 * parameters, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    logger.info(f"A new {config.model_type}: {parameters:,} parameters, {format_size(size)} in float32")
    if size > memory and not is_deepspeed_zero3_enabled():  # ZeRO-3 makes only this rank's share
        raise ValueError(
            f"this {config.model_type} model has {parameters:,} parameters, {format_size(size)} in float32, and this "
            f"machine has {format_size(memory)}: make it smaller with `--config_overrides`"
        )
