"""Low-rank adapters: added to a model, found, and merged into the model that they were trained on."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import torch
from accelerate import PartialState
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from hf_llm.arguments import AdapterArguments
from hf_llm.files import write_json
from hf_llm.mappings import read_json_file
from hf_llm.messages import one_line
from hf_llm.models.inspection import count_parameters

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
HEAD_CONFIG = "head_config.json"  # the labels of a classification head, which the base model does not know


def add_adapter(
    model: PreTrainedModel,
    adapter_args: AdapterArguments,
    new_tokens: Iterable[int] | None = None,
    head: list[str] | None = None,
) -> PreTrainedModel | peft.PeftModel:
    """Freeze the weights of a model and add trainable low-rank adapters; without `--lora_r` return it unchanged.

    Args:
        new_tokens: ids whose rows of the input and output embeddings are trained too.
        head: names of the modules of a classification head, which is trained whole and saved with the adapters.

    Raises:
        ValueError: no module has one of the names in `--lora_target_modules`; or new tokens cannot be trained.
    """
    if adapter_args.lora_r is None:
        return model
    if adapter_args.load_in_4bit:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM" if head is None else "SEQ_CLS",
        modules_to_save=head,
        r=adapter_args.lora_r,
        lora_alpha=adapter_args.lora_alpha or 2 * adapter_args.lora_r,
        lora_dropout=adapter_args.lora_dropout,
        target_modules=adapter_args.lora_target_modules or "all-linear",
        use_dora=adapter_args.use_dora,
        trainable_token_indices=trainable_tokens(model, sorted(new_tokens)) if new_tokens else None,
    )
    try:
        adapted = peft.get_peft_model(model, config)
    except ValueError as error:
        modules = model.named_modules()
        linear = {name.rpartition(".")[2] for name, module in modules if isinstance(module, torch.nn.Linear)}
        raise ValueError(
            f"`--lora_target_modules`: {one_line(error)[:150]}; the linear layers are {', '.join(sorted(linear))}"
        ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # a head has been loaded in the precision of the frozen weights
            parameter.data = parameter.data.float()
    base = adapted.peft_config["default"].base_model_name_or_path
    if base and Path(base).exists():  # found from every working folder
        adapted.peft_config["default"].base_model_name_or_path = str(Path(base).absolute())
    trained = count_parameters(adapted, trained=True)
    logger.info(f"Adapters: {trained:,} of {count_parameters(adapted):,} parameters are trained")
    return adapted


def trainable_tokens(model: PreTrainedModel, ids: list[int]) -> dict[str, list[int]]:
    """Return the names of the input embedding and, unless they are tied, the output embedding, with the ids to train.

    Raises:
        ValueError: the output embedding has a bias, which PEFT would leave out; or ZeRO-3 runs on CPU ranks.
    """
    remedy = "leave out `--lora_r`, or take `--chat_template alpaca`, which needs no new tokens"
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ValueError(
            f"`--lora_r`: the output layer of {type(model).__name__} has a bias, with which PEFT trains "
            f"no new tokens: {remedy}"
        )
    if is_deepspeed_zero3_enabled() and PartialState().device.type == "cpu":
        raise ValueError(f"`--lora_r`: PEFT trains no new tokens under ZeRO-3 on CPU ranks: {remedy}, or ZeRO-2")
    layers = [embedding] if head.weight is embedding.weight else [embedding, head]
    return {name.rpartition(".")[2]: ids for name, module in model.named_modules() if module in layers}


def tokens_of_adapter(folder: Path) -> set[int]:
    """Ids of the tokens of which an adapter has rows of the embeddings: its base may lack them."""
    ids = read_json_file(folder / ADAPTER_CONFIG).get("trainable_token_indices") or []
    return {id for group in (ids.values() if isinstance(ids, dict) else [ids]) for id in group}


def frozen_weight_options(adapter_args: AdapterArguments, bf16: bool) -> dict[str, Any]:
    """Return the `from_pretrained` options for weights that stay frozen under adapters: no optimizer needs float32.

    Raises:
        ValueError: `--load_in_4bit` with ZeRO-3 on CPU ranks.
    """
    if adapter_args.load_in_4bit:
        if is_deepspeed_zero3_enabled() and PartialState().device.type == "cpu":
            # On CPUs bitsandbytes reorders 4-bit weights in place at evaluation; ZeRO-3 would gather the old order.
            raise ValueError(
                "`--load_in_4bit` does not work with ZeRO-3 on CPU ranks, where the weights would be wrong after an "
                "evaluation: use `--deepspeed ds_configs/zero2.json`, or leave out `--load_in_4bit`"
            )
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        return {"quantization_config": quantization, "dtype": torch.bfloat16}
    return {"dtype": torch.bfloat16} if adapter_args.lora_r and bf16 else {}


def find_adapter(name: str) -> Path | None:
    """Return `name` as a path if it is the folder of a PEFT adapter, else None."""
    folder = Path(name).expanduser()
    return folder if (folder / ADAPTER_CONFIG).is_file() else None


def base_of_adapter(folder: Path) -> str:
    """Return the name of an adapter's base model: a Hub id, or the path of a folder or a .gguf file.

    If there is nothing at a path, but a folder of that name beside the adapter, both were moved.

    Raises:
        ValueError: the adapter names no base, or one that is not there.
    """
    file = folder / ADAPTER_CONFIG
    base = read_json_file(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"`{file}` names no base model: write its folder or Hub id there as `base_model_name_or_path`")
    path = Path(base).expanduser()
    if path.exists() or not path.is_absolute():
        return base
    moved = folder.absolute().parent / path.name
    if not moved.exists():
        raise ValueError(
            f"`{file}` names the base model {base}, which is not there: write where it is now as "
            "`base_model_name_or_path` in that file"
        )
    logger.warning(f"The adapter's base {base} is not there: {moved} is taken, which has its name")
    return str(moved)


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add an adapter's weights to those of its base model, which is then as fast as without an adapter.

    Raises:
        ValueError: the adapter does not fit its base.
    """
    base = model.name_or_path
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
        needed, known = (set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=x)) for x in (False, True))
        saved = set(peft.utils.load_peft_weights(str(folder), device="cpu"))
    except Exception as error:  # a shape or a module that does not fit, a file that is missing or broken
        raise ValueError(f"adapter `{folder}` does not fit its base `{base}`: {one_line(error)}") from error
    if unmatched := sorted((needed - saved) | (saved - known)):  # PEFT ignores them
        raise ValueError(
            f"adapter `{folder}` does not fit its base `{base}`: {len(unmatched)} tensors are only in one of them, the "
            f"first is {unmatched[0]}"
        )
    untie_adapted_embeddings(model)
    return adapted.merge_and_unload()


def save_adapter_configs(folder: Path, model: Any) -> None:
    """Save with an adapter what a whole model is saved with: the tokens at which it learned to stop, or its labels."""
    adapters = getattr(model, "peft_config", {})
    if not adapters:
        return
    if adapters["default"].task_type == peft.TaskType.SEQ_CLS:
        head = {name: getattr(model.config, name) for name in ("id2label", "label2id", "problem_type")}
        write_json(folder / HEAD_CONFIG, head)
    else:
        model.generation_config.save_pretrained(folder)


def untie_adapted_embeddings(model: PreTrainedModel) -> None:
    """Give the output embedding weights of its own, if it shares them with the input embedding and either has adapters.

    An adapter changes what one of them adds to the shared weights. Merged into these, it would change both.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and (isinstance(head, BaseTunerLayer) or isinstance(embedding, BaseTunerLayer)):
        layer = getattr(head, "base_layer", head)
        if layer.weight is getattr(embedding, "base_layer", embedding).weight:
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
            model.config.get_text_config().tie_word_embeddings = False
