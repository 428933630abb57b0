"""The tokenizer and the model that a run starts from: loaded, or new from a config."""

import difflib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from hf_llm.arguments import AdapterArguments, ModelArguments, TokenizerArguments
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.hardware import has_bfloat16
from hf_llm.messages import one_line
from hf_llm.models.inspection import count_parameters, kind_of

logger = logging.getLogger(__name__)

STREAMED = 100_000  # documents of a stream that a new tokenizer is trained on
ADAPTER_CONFIG = "adapter_config.json"
KINDS = {  # of language models: what they are called, and the architectures that there are
    AutoModelForCausalLM: ("causal", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    AutoModelForMaskedLM: ("masked", MODEL_FOR_MASKED_LM_MAPPING_NAMES),
}


def source(name: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` takes for a folder, a Hub id or a .gguf file: a name and keyword arguments.

    Raises:
        ValueError: it is no id, and there is no such folder or file.
    """
    path = Path(name).expanduser()
    if not path.exists() and (name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith(".gguf")):
        raise ValueError("there is no such folder or file")
    if name.endswith(".gguf"):
        return str(path.parent), {"gguf_file": path.name}
    return str(path) if path.exists() else name, {}


def load_tokenizer(
    model_args: ModelArguments,
    train_split: Dataset | IterableDataset | None = None,
    checkpoint: str | None = None,
    special_tokens: Sequence[str] = (),
) -> PreTrainedTokenizerBase:
    """Load the tokenizer, or train a byte-level BPE on the train split for a new model.

    Args:
        train_split: rows `{"text": str}`.
        checkpoint: folder that the run resumes from; its tokenizer goes on being used.
        special_tokens: that a new tokenizer has beside those of every one.

    Raises:
        ValueError: the tokenizer cannot be read.
    """
    name = checkpoint or model_args.tokenizer_name or model_args.model_name_or_path
    if name is None and train_split is None:
        raise ValueError("there is no model to start from: give `--model_name_or_path`, a folder or a Hub id")
    if name is None:
        trained = [None]
        if PartialState().is_main_process:
            streamed = isinstance(train_split, IterableDataset)
            texts = (row["text"] or "" for row in (train_split.take(STREAMED) if streamed else train_split))
            trained = [train_tokenizer(texts, model_args.vocab_size, special_tokens=special_tokens)]
        # Ids that differ between ranks would ruin a run in silence: all take the one of rank 0.
        return broadcast_object_list(trained)[0]
    tokenizer = read_tokenizer(name, model_args.trust_remote_code)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def read_tokenizer(name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """A tokenizer as it was saved.

    Raises:
        ValueError: it cannot be read.
    """
    if Path(name).is_dir() and not any(Path(name).glob("*.json")):
        raise ValueError(f"`{name}` holds no model: did the run that was to write it come to its end?")
    try:
        path, gguf = source(name)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **gguf)
    except Exception as error:  # the library raises OSError, ValueError, KeyError, ... for the many ways to be broken
        absent = isinstance(error, OSError) and not Path(name).expanduser().exists()
        missing = "there is no such folder, and as a Hub id: " if absent else ""
        raise ValueError(f"cannot load a tokenizer from `{name}`: {missing}{one_line(error)}") from error
    if gguf:
        drop_invented_tokens(tokenizer)
    return tokenizer


def drop_invented_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take away what transformers adds to a GGUF vocabulary (GPT-2's `<|endoftext|>`): the model has no row for it."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    entries = len(definition["model"]["vocab"])
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["id"] < entries]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(definition))


def new_config(
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    auto_class: type = AutoModelForCausalLM,
) -> PreTrainedConfig:
    """The config of a new model, its vocabulary and positions fitted to tokenizer and rows.

    Raises:
        ValueError: unknown model type or setting, each with the nearest known one.
    """
    kind, known = KINDS[auto_class]
    if model_args.model_type not in known:
        near = difflib.get_close_matches(model_args.model_type, known, 1)
        near = near or ["llama" if auto_class is AutoModelForCausalLM else "roberta"]
        raise ValueError(
            f"`--model_type` {model_args.model_type} has no {kind} language model here; the nearest is {near[0]}"
        )
    default = AutoConfig.for_model(model_args.model_type)
    settings = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    settings |= parse_overrides(model_args.config_overrides or "", default)
    if model_args.initializer_range is not None:
        settings["initializer_range"] = model_args.initializer_range
    for key in ("initializer_range", "max_position_embeddings"):
        if key in settings and not hasattr(default, key):
            if key == "initializer_range":
                raise ValueError(f"`--initializer_range`: {model_args.model_type} has no such setting; leave it out")
            del settings[key]
    return AutoConfig.for_model(model_args.model_type, **settings)


def parse_overrides(overrides: str, default: PreTrainedConfig) -> dict[str, Any]:
    """`hidden_size=256,rope_theta=1e4` -> `{"hidden_size": 256, "rope_theta": 10000.0}`, typed by their values."""
    settings = {}
    rotary = getattr(default, "rope_parameters", None) or {}  # rope_theta is taken as a setting and kept in here
    for pair in filter(None, (part.strip() for part in overrides.split(","))):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"`--config_overrides` has `{pair}`: write key=value pairs, parted by commas")
        if not hasattr(default, key) and key not in rotary:
            near = difflib.get_close_matches(key, [*default.to_dict(), *default.attribute_map, *rotary], 1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ValueError(f"`--config_overrides` {key}: {default.model_type} has no such setting{hint}")
        try:
            settings[key] = float(value) if "e" in value.lower() else yaml.safe_load(value)
        except ValueError:
            settings[key] = yaml.safe_load(value)
    return settings


def load_model(
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    auto_class: type = AutoModelForCausalLM,
    **options,
) -> PreTrainedModel:
    """Load a language model in float32, or draw a new one's weights from a normal distribution with mean 0.

    Mixed precision keeps these float32 weights for the optimizer and computes in bfloat16.

    Args:
        auto_class: one of `KINDS`.
        options: further ones of `from_pretrained`, e.g. `frozen_precision`.

    Raises:
        ValueError: the weights or the config cannot be read, the rows are longer than the model's positions, or the
            tokenizer has more entries than the model.
    """
    if model_args.model_name_or_path is None:
        return build_model(model_args, tokenizer, max_length, auto_class)
    for name in ("config_overrides", "initializer_range"):
        if getattr(model_args, name) is not None:
            logger.warning(f"Ignored: `--{name}` describes a new model, and this one is loaded")
    if (adapter := adapter_of(model_args.model_name_or_path)) is not None:
        raise ValueError(
            f"`--model_name_or_path` {adapter} is an adapter: train on its base, or merge them first "
            "(`PeftModel.merge_and_unload`, `save_pretrained`)"
        )
    try:
        model = load_weights(model_args, auto_class, **options)
    except Exception as error:  # from a missing file to a shape that does not fit: the library has no common class
        raise ValueError(f"cannot load `{model_args.model_name_or_path}`: {one_line(error)}") from error
    check_fit(model.config, tokenizer, max_length + first_position(model))
    return model


def build_model(
    model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase, max_length: int, auto_class: type
) -> PreTrainedModel:
    """A new model in float32; what does not fit is told before the weights are drawn."""
    try:
        config = new_config(model_args, tokenizer, max_length, auto_class)
        planned = without_weights(config, auto_class)
        if first_position(planned) and "max_position_embeddings" not in (model_args.config_overrides or ""):
            config.max_position_embeddings += first_position(planned)
            planned = without_weights(config, auto_class)
        check_fit(config, tokenizer, max_length + first_position(planned))
        check_memory(config, count_parameters(planned))
        return auto_class.from_config(config, dtype=torch.float32, attn_implementation=model_args.attn_implementation)
    except ValueError:
        raise
    except Exception as error:  # a setting that the architecture cannot be built with ends in any class of error
        raise ValueError(f"cannot build this {model_args.model_type} model: {one_line(error)}") from error


def without_weights(config: PreTrainedConfig, auto_class: type) -> PreTrainedModel:
    """The model as it will be, without the memory that it will take."""
    with torch.device("meta"):
        return auto_class._model_mapping[type(config)](config)


def first_position(model: PreTrainedModel) -> int:
    """The position of a text's first token: RoBERTa counts from behind that of the padding."""
    tables = (part for name, part in model.named_modules() if name.endswith("embeddings.position_embeddings"))
    padding = getattr(next(tables, None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def check_memory(config: PreTrainedConfig, parameters: int) -> None:
    """Say how large a new model is, and refuse one whose weights this machine cannot hold."""
    gigabytes, memory = 4 * parameters / 1e9, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    logger.info(f"A new {config.model_type}: {parameters:,} parameters, {gigabytes:.1f} GB in float32")
    if gigabytes > memory and not is_deepspeed_zero3_enabled():  # which makes each rank's part alone
        raise ValueError(
            f"this {config.model_type} model has {parameters:,} parameters, {gigabytes:.0f} GB in float32, and this "
            f"machine has {memory:.0f} GB: make it smaller with `--config_overrides`"
        )


def load_weights(model_args: ModelArguments, auto_class: type, **options) -> PreTrainedModel:
    """`from_pretrained`, complete or not at all; a model from GGUF saves like any other afterwards."""
    path, gguf = source(model_args.model_name_or_path)
    model, loading = auto_class.from_pretrained(
        path,
        attn_implementation=model_args.attn_implementation,
        trust_remote_code=model_args.trust_remote_code,
        output_loading_info=True,
        **gguf,
        **{"dtype": torch.float32, **options},
    )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"the weights lack {len(missing)} tensors, the first is {missing[0]}")
    if gguf:  # the weights are plain tensors by now, yet save_pretrained takes the model for a quantized one
        model.hf_quantizer = None
        model.is_quantized = False
        for holder, name in ((model, "quantization_method"), (model.config, "quantization_config")):
            if hasattr(holder, name):
                delattr(holder, name)
        model.name_or_path = str(Path(path) / gguf["gguf_file"])  # an adapter's config names it as its base
    return model


def load_to_finetune(
    model_args: ModelArguments,
    adapter_args: AdapterArguments,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    bf16: bool,
) -> PreTrainedModel:
    """`load_model`, and adapters on it where they are asked for."""
    model = load_model(model_args, tokenizer, max_length, **frozen_precision(adapter_args, bf16))
    return add_adapter(model, adapter_args)


def add_adapter(model: PreTrainedModel, adapter_args: AdapterArguments) -> PreTrainedModel:
    """The model with trainable low-rank adapters on frozen weights; as it is without `--lora_r`.

    Raises:
        ValueError: no module has one of the given names.
    """
    if adapter_args.lora_r is None:
        return model
    if adapter_args.load_in_4bit:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter_args.lora_r,
        lora_alpha=adapter_args.lora_alpha or 2 * adapter_args.lora_r,
        lora_dropout=adapter_args.lora_dropout,
        target_modules=adapter_args.lora_target_modules or "all-linear",
        use_dora=adapter_args.use_dora,
    )
    try:
        model = peft.get_peft_model(model, config)
    except ValueError as error:
        linear = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        raise ValueError(
            f"`--lora_target_modules`: {one_line(error)[:150]}; the linear layers are {', '.join(sorted(linear))}"
        ) from error
    trained = count_parameters(model, trained=True)
    logger.info(f"Adapters: {trained:,} of {count_parameters(model):,} parameters are trained")
    return model


def frozen_precision(adapter_args: AdapterArguments, bf16: bool) -> dict[str, Any]:
    """What `from_pretrained` takes for weights that adapters leave frozen: no optimizer needs them in float32.

    Raises:
        ValueError: `--load_in_4bit` with ZeRO-3 on CPU ranks.
    """
    if adapter_args.load_in_4bit:
        if is_deepspeed_zero3_enabled() and PartialState().device.type == "cpu":
            # On CPUs bitsandbytes reorders 4-bit weights in place when it evaluates, and ZeRO-3 gathers them as before.
            raise ValueError(
                "`--load_in_4bit` on CPU ranks does not go with ZeRO-3, which would bring back other weights: take "
                "`--deepspeed ds_configs/zero2.json`, or leave out `--load_in_4bit`"
            )
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        return {"quantization_config": quantization, "dtype": torch.bfloat16}
    return {"dtype": torch.bfloat16} if adapter_args.lora_r and bf16 else {}


def check_fit(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Rows must fit the positions, and the tokenizer the embedding."""
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ValueError(f"`--max_length` {max_length} is beyond the model's {positions} positions: take at most those")
    vocab_size = config.vocab_size
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries, the model {vocab_size}: give the model's own "
            "`--tokenizer_name`"
        )


def load_to_extend(args: TokenizerArguments) -> tuple[PreTrainedTokenizerBase | None, PreTrainedModel | None]:
    """The tokenizer whose vocabulary is to grow, and its model, as it was saved; None where there is none."""
    name = args.model_name_or_path or args.tokenizer_name
    if name is None:
        return None, None
    tokenizer = read_tokenizer(name, args.trust_remote_code)
    if args.model_name_or_path is None:
        return tokenizer, None
    model_args = ModelArguments(model_name_or_path=name, trust_remote_code=args.trust_remote_code)
    return tokenizer, load_model(model_args, tokenizer, 1, kind_of(name), dtype="auto")


@torch.no_grad()
def extend_embeddings(model: PreTrainedModel, pieces: dict[int, list[int]]) -> None:
    """Give new tokens the mean of the embeddings of the pieces that they replace (Gee et al., 2022), in and out.

    Args:
        pieces: of each new id the old ids.
    """
    if max(pieces) >= model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(max(pieces) + 1, mean_resizing=False)
    new, flat = torch.tensor(list(pieces)), torch.tensor([id for ids in pieces.values() for id in ids])
    sizes = torch.tensor([len(ids) for ids in pieces.values()])
    head = model.get_output_embeddings()
    for weights in (model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)):
        if weights is not None:
            table = weights if weights.dim() == 2 else weights[:, None]
            means = torch.nn.functional.embedding_bag(flat, table.float(), sizes.cumsum(0) - sizes, mode="mean")
            table[new] = means.to(table.dtype)


def load_for_generation(
    name: str, trust_remote_code: bool = False, dtype: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder, a Hub id, a .gguf file or a PEFT adapter, on the accelerator where there is one.

    Args:
        dtype: e.g. `float32`. Left out: bfloat16 where the hardware has it.

    Raises:
        ValueError: they cannot be read, or the adapter does not fit its base.
    """
    device, adapter = PartialState().device, adapter_of(name)
    if dtype is None:
        dtype = "bfloat16" if has_bfloat16(device.type == "cpu") else "float32"
    model_args = model_arguments(name, trust_remote_code)
    tokenizer = load_tokenizer(model_args)
    # An adapter is added in float32 and the sum rounded once.
    loaded_as = torch.float32 if adapter is not None else getattr(torch, dtype)
    model = load_model(model_args, tokenizer, max_length=1, dtype=loaded_as)
    if adapter is not None:
        model = load_adapter(model, adapter)
        for parameter in model.parameters():  # not the buffers: rotary frequencies stay exact
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model.to(device).eval(), tokenizer


def model_arguments(name: str, trust_remote_code: bool = False) -> ModelArguments:
    """What to load for a name: of an adapter its base, with the adapter's tokenizer where it has one."""
    model_args, adapter = ModelArguments(model_name_or_path=name, trust_remote_code=trust_remote_code), adapter_of(name)
    if adapter is not None:
        model_args.model_name_or_path = json.loads((adapter / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
        if (adapter / "tokenizer_config.json").is_file():
            model_args.tokenizer_name = name
    return model_args


def adapter_of(name: str) -> Path | None:
    """The folder of a PEFT adapter, where `name` is one."""
    folder = Path(name).expanduser()
    return folder if (folder / ADAPTER_CONFIG).is_file() else None


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base with an adapter's weights added into its own, so that it is as fast as the base alone."""
    base = model.name_or_path
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
        there = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        given = set(peft.utils.load_peft_weights(str(folder), device="cpu"))
    except Exception as error:  # a shape or a module that does not fit, a file that is missing or broken
        raise ValueError(f"adapter `{folder}` does not fit its base `{base}`: {one_line(error)}") from error
    if strange := sorted(there ^ given):  # PEFT passes over them
        raise ValueError(
            f"adapter `{folder}` does not fit its base `{base}`: {len(strange)} tensors are only in one of them, the "
            f"first is {strange[0]}"
        )
    return adapted.merge_and_unload()
