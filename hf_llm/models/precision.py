"""The precision in which a trained model is saved: training itself keeps its weights in float32."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from hf_llm.arguments import ModelArguments
from hf_llm.files import write_text
from hf_llm.mappings import read_json_file
from hf_llm.models.inspection import unwrap_adapters

logger = logging.getLogger(__name__)


def choose_saved_dtype(model: Any, model_args: ModelArguments, base: str | None = None) -> None:
    """Note on the model in which precision it is to be saved, for `cast_saved_weights`.

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
    """Convert the float32 tensors of a saved model or adapter to the precision that `choose_saved_dtype` has noted.

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
    for name, change in (
        (SAFE_WEIGHTS_INDEX_NAME, lambda index: index["metadata"].update(total_size=size)),
        ("config.json", lambda config: config.update(dtype=str(dtype).removeprefix("torch."))),
    ):
        if (folder / name).is_file():
            change(content := read_json_file(folder / name))
            write_text(folder / name, json.dumps(content, indent=2) + "\n")
    logger.info(f"Saved in {str(dtype).removeprefix('torch.')}; `--save_dtype float32` keeps the precision of training")
