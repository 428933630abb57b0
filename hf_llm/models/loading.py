"""Tokenizers and models: loaded from files or the Hub, or new from a config."""

import contextlib
import difflib
import functools
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import GENERATION_CONFIG_NAME

from hf_llm.arguments import AdapterArguments, ModelArguments, TokenizerArguments
from hf_llm.data.labelling import Labeller
from hf_llm.data.mixtures import join_documents
from hf_llm.data.prompting import Prompter
from hf_llm.data.token_folders import TokenRows
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.hardware import has_bfloat16
from hf_llm.messages import one_line
from hf_llm.models.adapters import (
    add_adapter,
    base_of_adapter,
    find_adapter,
    frozen_weight_options,
    load_adapter,
    tokens_of_adapter,
)
from hf_llm.models.classifiers import find_classifier, head_modules, no_load_report, report_head
from hf_llm.models.config_checks import check_heads, check_memory, check_overrides
from hf_llm.models.extension import extend_embeddings
from hf_llm.models.inspection import count_parameters, detect_auto_class, end_token_ids, first_position
from hf_llm.models.precision import choose_saved_dtype

logger = logging.getLogger(__name__)

STREAMED_DOCUMENTS = 100_000  # a new tokenizer is trained on this many documents of a stream
MODEL_TYPES = {  # auto class -> its name in messages, and the values of `--model_type` that it has a model for
    AutoModelForCausalLM: ("causal", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    AutoModelForMaskedLM: ("masked", MODEL_FOR_MASKED_LM_MAPPING_NAMES),
}


def pretrained_location(name: str) -> tuple[str, dict[str, str]]:
    """Translate a folder, a Hub id or a .gguf file into the name and the keyword arguments of `from_pretrained`.

    Example:
        >>> pretrained_location("models/tiny.gguf")
        ('models', {'gguf_file': 'tiny.gguf'})

    Raises:
        ValueError: the name is a path, and there is no such folder or file; or a file of settings in it is damaged.
    """
    path = Path(name).expanduser()
    if not path.exists() and (name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith(".gguf")):
        raise ValueError("there is no such folder or file")
    if name.endswith(".gguf"):
        return str(path.parent), {"gguf_file": path.name}
    check_settings(path)
    return str(path) if path.exists() else name, {}


def check_settings(folder: Path) -> None:
    """Check that the files of settings in a model's folder can be read: transformers ignores some that are damaged.

    Raises:
        ValueError: one is not a JSON object.
    """
    for path in sorted(folder.glob("*config.json")):
        try:
            damaged = not isinstance(json.loads(path.read_bytes()), dict)
        except ValueError:
            damaged = True
        if damaged:
            raise ValueError(f"{path.name} is damaged: its {path.stat().st_size:,} bytes are not a JSON object")


def load_tokenizer(
    model_args: ModelArguments,
    train_split: Dataset | IterableDataset | dict[str, Any] | None = None,
    checkpoint: str | None = None,
    special_tokens: Sequence[str] = (),
) -> PreTrainedTokenizerBase:
    """Load the tokenizer, or train a byte-level BPE on the train split for a new model.

    Args:
        train_split: rows `{"text": str}` for a new tokenizer, or the rows of a token folder, which has one; or those of
            each source of a mixture.
        checkpoint: folder that the run resumes from, whose tokenizer is that which the run has trained.
        special_tokens: further special tokens of a new tokenizer.

    Raises:
        ValueError: the tokenizer cannot be read, or is not that of the token folder, or there is neither a name to load
            nor text to train on.
    """
    sources = train_split.values() if isinstance(train_split, dict) else [train_split]
    folders = [rows for rows in sources if isinstance(rows, TokenRows)]
    name = model_args.tokenizer_name or model_args.model_name_or_path or next((f.tokenizer for f in folders), None)
    if name is None and checkpoint is None:
        if train_split is None:
            raise ValueError("there is no model to start from: give `--model_name_or_path`, a folder or a Hub id")
        trained: list[Any] = [None]
        if PartialState().is_main_process:
            rows: Any = join_documents(train_split)
            rows = rows.take(STREAMED_DOCUMENTS) if isinstance(rows, IterableDataset) else rows
            texts = (row["text"] or "" for row in rows)
            trained = [train_tokenizer(texts, model_args.vocab_size, special_tokens=special_tokens)]
        # Token ids that differ between ranks would silently ruin the run: all ranks use the tokenizer of rank 0.
        tokenizer: PreTrainedTokenizerBase = broadcast_object_list(trained)[0]
    else:
        tokenizer = read_tokenizer(name or f"{checkpoint}", model_args.trust_remote_code)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if name is None:  # one of the facts of the run; the tokenizer may have fewer entries
        tokenizer.trained_vocab_size = model_args.vocab_size  # pyright: ignore[reportAttributeAccessIssue]
    for folder in folders:
        folder.check_tokenizer(tokenizer)
    return tokenizer


def read_tokenizer(name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Read a tokenizer as it was saved, from a folder, a Hub id or a .gguf file.

    Raises:
        ValueError: it cannot be read.
    """
    if Path(name).is_dir() and not any(Path(name).glob("*.json")):
        raise ValueError(f"`{name}` holds no model: did the run that should write it finish?")
    try:
        path, gguf = pretrained_location(name)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **gguf)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others
        absent = isinstance(error, OSError) and not Path(name).expanduser().exists()
        missing = "there is no such folder, and as a Hub id: " if absent else ""
        raise ValueError(f"cannot load a tokenizer from `{name}`: {missing}{one_line(error)}") from error
    if gguf:
        drop_invented_tokens(tokenizer)
    return tokenizer


def drop_invented_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Remove tokens that transformers adds to a GGUF vocabulary (GPT-2's `<|endoftext|>`): they have no embedding."""
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
    """Make the config of a new model, with the tokenizer's vocabulary size and `max_length` positions.

    Raises:
        ValueError: unknown model type or setting; the message names the nearest known one.
    """
    kind, known = MODEL_TYPES[auto_class]
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
    overrides = model_args.config_overrides or {}
    check_overrides(overrides, default)
    names = default.attribute_map  # GPT-2's `n_positions` is another name of `max_position_embeddings`
    settings = {names.get(key, key): value for key, value in (settings | overrides).items()}
    if model_args.initializer_range is not None:
        settings["initializer_range"] = model_args.initializer_range
    for key in ("initializer_range", "max_position_embeddings"):
        if key in settings and not hasattr(default, key):
            if key == "initializer_range":
                raise ValueError(f"`--initializer_range`: {model_args.model_type} has no such setting; leave it out")
            del settings[key]
    return AutoConfig.for_model(model_args.model_type, **settings)


def load_model(
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    auto_class: type = AutoModelForCausalLM,
    new_tokens: dict[int, list[int]] | None = None,
    **options,
) -> PreTrainedModel:
    """Load a language model in float32, or make a new one with weights from a normal distribution with mean 0.

    Mixed precision keeps these float32 weights for the optimizer and computes in bfloat16. `save_final_model` saves
    them in the precision that the model had, or in `--save_dtype`.

    Args:
        max_length: tokens of the longest row.
        auto_class: a key of `MODEL_TYPES`.
        new_tokens: those that the model lacks, as `extend_embeddings` takes them.
        options: further ones of `from_pretrained`, e.g. those of `frozen_weight_options`.

    Raises:
        ValueError: the weights or the config cannot be read, the rows are longer than the model's positions, or the
            tokenizer has more entries than the model's embedding.
    """
    if model_args.model_name_or_path is None:
        return build_model(model_args, tokenizer, max_length, auto_class)
    for name in ("config_overrides", "initializer_range"):
        if getattr(model_args, name) is not None:
            logger.warning(f"Ignored: `--{name}` describes a new model, and this one is loaded")
    if (adapter := find_adapter(model_args.model_name_or_path)) is not None:
        raise ValueError(
            f"`--model_name_or_path` {adapter} is an adapter: train on its base, or merge them first by "
            f"`load_for_generation('{adapter}', dtype='float32')` of hf_llm.models.loading, and `save_pretrained` of "
            "the model and the tokenizer that it returns"
        )
    try:
        model = load_weights(model_args.model_name_or_path, model_args, auto_class, **options)
    except Exception as error:  # transformers has no common class for a missing file, a wrong shape, ...
        problem, *_ = one_line(error).split(" Model type should be one of")  # a hundred names
        raise ValueError(f"cannot load `{model_args.model_name_or_path}`: {problem}") from error
    check_fit(model.config, len(tokenizer) - len(new_tokens or ()), max_length, first_position(model))
    if new_tokens:
        extend_embeddings(model, new_tokens)
    return model


def build_model(
    model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase, max_length: int, auto_class: type
) -> PreTrainedModel:
    """Make a new model in float32; sizes that do not fit raise an error before any memory is used.

    Raises:
        ValueError: as `new_config`, `check_fit` and `check_memory`; or the architecture cannot be built this way.
    """
    try:
        config = new_config(model_args, tokenizer, max_length, auto_class)
        check_heads(config)
        planned = build_on_meta_device(config, auto_class)
        if first_position(planned) and "max_position_embeddings" not in (model_args.config_overrides or {}):
            config.max_position_embeddings += first_position(planned)
            planned = build_on_meta_device(config, auto_class)
        check_fit(config, len(tokenizer), max_length, first_position(planned))
        check_memory(config, count_parameters(planned))
        model = auto_class.from_config(config, dtype=torch.float32, attn_implementation=model_args.attn_implementation)
        choose_saved_dtype(model, model_args)
        return model
    except Exception as error:  # architectures raise any class of error for settings that do not go together
        if isinstance(error, ValueError) and "--" in str(error):  # one of those above
            raise
        problem = one_line(error)
        if isinstance(error, KeyError) and " " not in problem:  # an activation function or a kind of rotary embedding
            near = difflib.get_close_matches(problem.strip("'"), [*ACT2FN, *ROPE_INIT_FUNCTIONS, "default"], 1)
            problem += " is unknown" + (f"; the nearest is {near[0]}" if near else "")
        raise ValueError(f"cannot build this {model_args.model_type} model: {problem}") from error


def build_on_meta_device(config: PreTrainedConfig, auto_class: type) -> PreTrainedModel:
    """Make the model with shapes but without weights, which takes no memory."""
    with torch.device("meta"):
        return auto_class._model_mapping[type(config)](config)


def load_weights(name: str, model_args: ModelArguments, auto_class: type, **options) -> PreTrainedModel:
    """Load a model by `from_pretrained`, and raise an error if weights are missing, but not those of a new head.

    A model from a .gguf file is left in a state in which `save_pretrained` works.
    """
    path, gguf = pretrained_location(name)
    with_head = auto_class is AutoModelForSequenceClassification
    with no_load_report() if with_head else contextlib.nullcontext():
        model, loading = auto_class.from_pretrained(
            path,
            attn_implementation=model_args.attn_implementation,
            trust_remote_code=model_args.trust_remote_code,
            output_loading_info=True,
            **gguf,
            **{"dtype": torch.float32, **options},
        )
    model.config.return_dict = True  # outputs are taken by their names
    missing = sorted([*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])])
    if with_head:
        missing = report_head(model, f"{path}", missing, loading["unexpected_keys"])
    if missing:
        raise ValueError(f"the weights lack {len(missing)} tensors, the first is {missing[0]}")
    if gguf:  # the weights are plain tensors now, but save_pretrained would refuse the model as a quantized one
        model.hf_quantizer = None
        model.is_quantized = False
        for holder, name in ((model, "quantization_method"), (model.config, "quantization_config")):
            if hasattr(holder, name):
                delattr(holder, name)
        model.name_or_path = str(Path(path) / gguf["gguf_file"])  # adapters record it as their base
    choose_saved_dtype(model, model_args, None if gguf else path)
    return model


def load_to_finetune(
    model_args: ModelArguments,
    adapter_args: AdapterArguments,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    bf16: bool,
    prompter: Prompter | Labeller,
    new_tokens: dict[int, list[int]] | None = None,
) -> PreTrainedModel | peft.PeftModel:
    """Load a model by `load_model`, and add adapters to it with `--lora_r`.

    Args:
        prompter: that of the run. It knows the token that ends an answer, at which the saved model will stop to
            generate, or the labels of a classification head.
        new_tokens: those that the model lacks, as `extend_embeddings` takes them; with adapters they are trained too.
    """
    options = frozen_weight_options(adapter_args, bf16)
    if isinstance(prompter, Labeller):
        model = load_with_head(model_args, tokenizer, max_length, prompter.head(), **options)
    else:
        model = load_model(model_args, tokenizer, max_length, new_tokens=new_tokens, **options)
        model.generation_config.eos_token_id = end_token_ids(model, tokenizer, prompter.end)
    if adapter_args.lora_r is not None:
        choose_saved_dtype(model, model_args)  # adapters stay in float32 on a base in bfloat16
    return add_adapter(model, adapter_args, new_tokens, head_modules(model) if isinstance(prompter, Labeller) else None)


def load_with_head(
    model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase, max_length: int, head: dict[str, Any], **options
) -> PreTrainedModel:
    """Load a model with a classification head, which is new where the saved one has none or another.

    Args:
        head: its settings in the config, see `Labeller.head`.
    """
    options |= head | {"ignore_mismatched_sizes": True}
    model = load_model(model_args, tokenizer, max_length, AutoModelForSequenceClassification, **options)
    model.config.pad_token_id = tokenizer.pad_token_id  # a decoder finds the last token of a row by it
    return model


def check_fit(config: PreTrainedConfig, entries: int, max_length: int, first: int) -> None:
    """Refuse rows longer than the model's positions, and a tokenizer larger than its embedding.

    Args:
        entries: of the tokenizer.
        first: position of a row's first token.

    Raises:
        ValueError: one of them does not fit.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    positions = math.inf if positions is None else positions - first
    if max_length > positions:
        raise ValueError(
            f"`--max_length` {max_length} is beyond the model's {positions} positions: give `--max_length {positions}`"
        )
    vocab_size = config.vocab_size
    if entries > vocab_size:
        raise ValueError(
            f"the tokenizer has {entries} entries, the model {vocab_size}: name the model's own tokenizer with "
            "`--tokenizer_name`"
        )


def load_to_extend(args: TokenizerArguments) -> tuple[PreTrainedTokenizerBase | None, PreTrainedModel | None]:
    """Load the tokenizer and the model, as they were saved, whose vocabulary is to be extended.

    Returns:
        Tokenizer and model; None for the model if only a tokenizer is named, None for both if neither is.
    """
    name = args.model_name_or_path or args.tokenizer_name
    if name is None:
        return None, None
    tokenizer = read_tokenizer(name, args.trust_remote_code)
    if args.model_name_or_path is None:
        return tokenizer, None
    model_args = ModelArguments(model_name_or_path=name, trust_remote_code=args.trust_remote_code)
    return tokenizer, load_model(model_args, tokenizer, 1, detect_auto_class(name), dtype="auto")


def load_for_generation(
    name: str, trust_remote_code: bool = False, dtype: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer for generation, on the accelerator if there is one.

    Args:
        name: a folder, a Hub id, a .gguf file or the folder of a PEFT adapter.
        dtype: e.g. `float32`; default: bfloat16 where the hardware has it, else float32.

    Returns:
        Model in evaluation mode, and tokenizer.

    Raises:
        ValueError: they cannot be read, the adapter does not fit its base, or the model does not write.
    """
    if config := find_classifier(name, trust_remote_code):
        raise ValueError(
            f"`{name}` ({config.model_type}) is an encoder, which labels texts and does not write them: train and "
            "score it by recipes/finetune.py and recipes/eval.py with `--task understanding`"
        )
    return load_to_evaluate(name, trust_remote_code, dtype)


def load_to_evaluate(
    name: str, trust_remote_code: bool = False, dtype: str | None = None, head: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load as `load_for_generation`, or with a classification head, whose settings are `head`."""
    device, adapter = PartialState().device, find_adapter(name)
    if dtype is None:
        dtype = "bfloat16" if has_bfloat16(device.type == "cpu") else "float32"
    model_args = model_arguments(name, trust_remote_code)
    tokenizer = load_tokenizer(model_args)
    # An adapter's weights are added in float32, so that the sum is rounded only once.
    loaded_as = torch.float32 if adapter is not None else getattr(torch, dtype)
    # The adapter has weights of its own for its new tokens, whatever they are here.
    new_tokens = {id: [0] for id in tokens_of_adapter(adapter)} if adapter is not None else None
    load = load_model if head is None else functools.partial(load_with_head, head=head)
    model = load(model_args, tokenizer, max_length=1, new_tokens=new_tokens, dtype=loaded_as)
    if adapter is not None:
        model = load_adapter(model, adapter)
        if (adapter / GENERATION_CONFIG_NAME).is_file():
            model.generation_config = GenerationConfig.from_pretrained(adapter)
        for parameter in model.parameters():  # not the buffers: rotary frequencies stay exact
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model.to(device).eval(), tokenizer  # pyright: ignore[reportArgumentType]  # a decorator hides `self`


def model_arguments(name: str, trust_remote_code: bool = False) -> ModelArguments:
    """Return the arguments that load a name: for an adapter its base model, and its own tokenizer if it has one."""
    model_args = ModelArguments(model_name_or_path=name, trust_remote_code=trust_remote_code)
    adapter = find_adapter(name)
    if adapter is not None:
        model_args.model_name_or_path = base_of_adapter(adapter)
        if (adapter / "tokenizer_config.json").is_file():
            model_args.tokenizer_name = name
    return model_args
