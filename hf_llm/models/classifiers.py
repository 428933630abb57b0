"""Models with a classification head, which label texts instead of writing them: encoders such as BERT."""

import contextlib
import logging
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from hf_llm.arguments import ModelArguments, TaskArguments
from hf_llm.mappings import read_json_file
from hf_llm.models.adapters import HEAD_CONFIG, base_of_adapter, find_adapter
from hf_llm.models.inspection import first_position, num_positions
from hf_llm.tasks import Task, load_task, task_names

logger = logging.getLogger(__name__)

WITH_HEAD = "ForSequenceClassification"  # how transformers names the classes of such models
NAME_OF_TRANSFORMERS = re.compile(r"LABEL_\d+")  # of a label that nobody named


def find_classifier(name: str | None, trust_remote_code: bool = False) -> PreTrainedConfig | None:
    """Return the config of a model that labels texts: an encoder, or any model with a classification head.

    Args:
        name: a folder, a Hub id, a .gguf file or the folder of a PEFT adapter, whose labels are put into the config.

    Returns:
        None for a model that writes, and for one that cannot be read, which loading it will report.

    Raises:
        ValueError: it is a model of another kind, such as an encoder-decoder.
    """
    if name is None or name.endswith(".gguf"):
        return None
    adapter = find_adapter(name)
    try:
        base = name if adapter is None else base_of_adapter(adapter)
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except Exception:  # transformers raises OSError, ValueError, KeyError and others
        return None
    if adapter is not None and (adapter / HEAD_CONFIG).is_file():
        config.update(read_json_file(adapter / HEAD_CONFIG))
        config.architectures = [WITH_HEAD]
    if labels_texts(config):
        return config
    other = type(config) not in AutoModelForCausalLM._model_mapping and not hasattr(config, "auto_map")
    if other or config.is_encoder_decoder:
        kind = "an encoder-decoder" if config.is_encoder_decoder else "neither a language model nor an encoder of texts"
        raise ValueError(
            f"`{name}` ({config.model_type}) is {kind}: take a causal language model such as Llama, or an encoder "
            "such as BERT"
        )
    return None


def check_kind(model_args: ModelArguments, auto_class: type) -> None:
    """Refuse to pretrain a saved model of another kind, before text is tokenized.

    Args:
        auto_class: of causal or of masked models.

    Raises:
        ValueError: the model is an encoder-decoder or of images, has a classification head, or is an encoder for text.
    """
    name = model_args.model_name_or_path
    config = find_classifier(name, model_args.trust_remote_code)
    if config is not None and has_head(config):
        raise ValueError(f"`{name}` has a classification head, and predicts no tokens: name the model below that head")
    if config is not None and auto_class is AutoModelForCausalLM:
        raise ValueError(f"`{name}` ({config.model_type}) is an encoder: give `--objective masked`, or another model")


def labels_texts(config: PreTrainedConfig) -> bool:
    """Return whether a config is that of an encoder, or of a model with a classification head."""
    architectures = {*(config.architectures or ())}
    if has_head(config):
        return True
    masked, causal = MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    known = config.model_type in masked or any(name.endswith("ForMaskedLM") for name in architectures)
    writes = config.is_encoder_decoder or getattr(config, "is_decoder", False)
    return known and not writes and not architectures & ({*causal.values()} - {*masked.values()})


def has_head(config: PreTrainedConfig) -> bool:
    """Return whether the saved model has a classification head already."""
    return any(name.endswith(WITH_HEAD) for name in config.architectures or ())


def check_classifier(name: str | None, config: PreTrainedConfig, task_name: str, task: Task) -> None:
    """Refuse a task that a model with a classification head cannot do, or a model that has no such head.

    Args:
        name: of the model.
        config: what `find_classifier` returns for it.

    Raises:
        ValueError: as described; the message says what the model is for.
    """
    fitting = " or ".join(other for other in task_names() if load_task(other).problem_type)
    if task.problem_type is None:
        raise ValueError(
            f"`--task` {task_name} needs a model that writes, and `{name}` ({config.model_type}) is an encoder, which "
            f"labels texts: take `--task {fitting}`, or another model"
        )
    if type(config) not in AutoModelForSequenceClassification._model_mapping and not hasattr(config, "auto_map"):
        raise ValueError(
            f"`{name}`: transformers has no {config.model_type} with a classification head: take another encoder"
        )


def check_prompt_settings(name: str, task_args: TaskArguments, task: Task) -> None:
    """Refuse settings of prompts and of written answers, which a model that labels texts does not read.

    Raises:
        ValueError: one is given.
    """
    for setting in ("prompt_style", "chat_template", "chat_template_kwargs", "system_prompt", "num_fewshot"):
        if getattr(task_args, setting):
            raise ValueError(
                f"`--{setting}` has no effect on `{name}`, an encoder, which reads the texts alone: leave it out"
            )
    if unread := {*task.writing_options} & {*(task_args.task_options or {})}:
        raise ValueError(
            f"`--task_options` {min(unread)} has no effect on `{name}`, an encoder, which gives each text a label by "
            "its head: leave it out"
        )


def count_positions(config: PreTrainedConfig) -> float:
    """The number of tokens that a model with a classification head can read, infinity where its config does not say."""
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        return math.inf
    with torch.device("meta"):  # without weights, which would take memory
        model: Any = AutoModelForSequenceClassification._model_mapping[type(config)](config)  # pyright: ignore[reportCallIssue]
    return num_positions(model) - first_position(model)


def read_positions(name: str, trust_remote_code: bool = False) -> float:
    """The number of tokens that a saved model can read; infinity where its config does not say or cannot be read."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception:  # as in `find_classifier`; loading reports it
        return math.inf
    if labels_texts(config):
        return count_positions(config)
    return getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf


def match_labels(config: PreTrainedConfig, task: Task) -> list[str] | None:
    """Name the outputs of a model's classification head as the task names its labels, in the order of the head.

    Upper and lower case are one. A head whose labels nobody named has the task's labels, in their order.

    Returns:
        None: the head is of another kind.
    """
    id2label: Any = config.id2label
    own, names = [id2label[number] for number in sorted(id2label, key=int)], task.label_names
    if (len(own) == 1) != (task.problem_type == "regression") or config.problem_type not in (None, task.problem_type):
        return None
    if len(own) == len(names) and all(map(NAME_OF_TRANSFORMERS.fullmatch, own)):
        logger.info(f"The model's labels have no names: they are taken as {', '.join(names)}, in this order")
        return [*names]
    same = {name.casefold(): name for name in names}
    return [label if label in names else same.get(label.casefold(), label) for label in own]


def labels_of_head(config: PreTrainedConfig, task: Task, name: str) -> list[str]:
    """Return what `match_labels` does.

    Args:
        name: of the model, in messages.

    Raises:
        ValueError: the head is of another kind than the task.
    """
    labels = match_labels(config, task)
    if labels is None:
        raise ValueError(
            f"{name} has a classification head with {config.num_labels} labels, for another kind of task: fine-tune "
            "it for this one"
        )
    return labels


def labels_to_train(config: PreTrainedConfig, task: Task) -> list[str]:
    """The labels of a model to fine-tune: in the order of its head if it has them, else in that of the task."""
    own = match_labels(config, task) if has_head(config) else None
    if own is not None and {*own} == {*task.label_names}:
        return own
    if has_head(config):
        logger.warning("The model's classification head is for other labels, and is replaced by a new one")
    return [*task.label_names]


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that make up the classification head, a pooler inside the encoder among them."""
    prefix = model.base_model_prefix
    names = [name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())]
    pooler = getattr(getattr(model, prefix, None), "pooler", None)
    return [*names, *([f"{prefix}.pooler"] if pooler is not None else [])]


@contextlib.contextmanager
def no_load_report():
    """Keep transformers from logging its table of new and unused weights, which `report_head` says in a line."""
    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(other_message := lambda record: "LOAD REPORT" not in record.getMessage())
    try:
        yield
    finally:
        log.removeFilter(other_message)


def report_head(model: PreTrainedModel, name: str, missing: Sequence[str], unused: Iterable[str]) -> list[str]:
    """Log which weights of a classification head are new, and which saved ones of the encoder are not used.

    Args:
        name: of the saved model.
        missing: names of the weights that it lacks.
        unused: names of the weights that only the saved model has.

    Returns:
        The missing ones that are not of the head.
    """
    modules = tuple(f"{name}." for name in head_modules(model))
    outside = [key for key in missing if not key.startswith(modules)]
    if missing and not outside:
        logger.info(f"`{name}` has no such classification head: {', '.join(missing)} are new")
    prefix = model.base_model_prefix
    if lost := sorted(key for key in unused if key.startswith(f"{prefix}.") and ".pooler." not in key):
        logger.warning(f"`{name}`: {len(lost)} of the encoder's weights are not used, the first is {lost[0]}")
    return outside
