"""The precision in which a trained model is saved: training itself keeps its weights in float32."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

from hf_llm.arguments import ModelArguments
from hf_llm.files import write_json
from hf_llm.mappings import read_json_file
from hf_llm.models.inspection import unwrap_adapters

logger = logging.getLogger(__name__)


def choose_saved_dtype(model: Any, model_args: ModelArguments, base: str | None = None) -> None:
    """Set `model.saved_dtype`, the precision to which `cast_saved_weights` converts the saved model.

    Args:
        base: folder or Hub id of the model to start from, whose precision is the default; None: float32.
    """
    dtype = torch.float32
    if model_args.save_dtype is not None:
        dtype = getattr(torch, model_args.save_dtype)
    elif base is not None:
        dtype = AutoConfig.from_pretrained(base, trust_remote_code=model_args.trust_remote_code).dtype or dtype
    model.saved_dtype = dtype


def cast_saved_weights(folder: Path, model: PreTrainedModel) -> None:
    """Convert the float32 tensors of a saved model or adapter to the precision that `choose_saved_dtype` has chosen.

    Tensors that the architecture keeps in float32, and those whose values are too large for float16, stay as they are.
    """
    plain = unwrap_adapters(model)
    dtype = getattr(plain, "saved_dtype", torch.float32)
    if dtype == torch.float32:
        return
    exact = {*(plain._keep_in_fp32_modules_strict or ())}
    if dtype == torch.float16:
        exact |= {*(plain._keep_in_fp32_modules or ())}
    size = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            fits = tensor.dtype == torch.float32 and tensor.abs().max() <= torch.finfo(dtype).max
            if fits and not any(part in name for part in exact):
                tensors[name] = tensor.to(dtype)
        cast = path.with_suffix(".cast")
        save_file(tensors, cast, metadata)
        os.replace(cast, path)
        size += sum(tensor.nbytes for tensor in tensors.values())
    dtype_name = str(dtype).removeprefix("torch.")
    if (index := folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        content = read_json_file(index)
        write_json(index, content | {"metadata": content["metadata"] | {"total_size": size}})
    if (config := folder / CONFIG_NAME).is_file():  # an adapter has none
        write_json(config, read_json_file(config) | {"dtype": dtype_name})
    logger.info(f"Saved in {dtype_name}; `--save_dtype float32` keeps the precision of training")
