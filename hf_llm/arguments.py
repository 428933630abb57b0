"""Command lines of the recipes: argument dataclasses beside `TrainingArguments`, and the one parser of them all."""

import argparse
import contextlib
import dataclasses
import difflib
import importlib.util
import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser


@dataclass
class ModelArguments:
    """Which model and tokenizer to start from."""

    _argument_group_name = "model"  # of `--help`

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Weights to start from: a folder, a Hub id or a .gguf file. Left out: a new model."},
    )
    model_type: str = field(
        default="llama", metadata={"help": "Architecture of a new model: any AutoConfig type with a causal LM."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Settings of a new model, e.g. hidden_size=256,num_hidden_layers=6 (AutoConfig names)."},
    )
    initializer_range: float | None = field(
        default=None,
        metadata={
            "help": "Standard deviation of a new model's weights (normal, mean 0). Left out: the architecture's own, "
            "0.02 for GPT-2. Some texts name a variance of 0.1, which is 0.316 here."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer folder or Hub id. Left out: the model's own, or a new one trained on the data."},
    )
    vocab_size: int = field(default=8192, metadata={"help": "Entries of a newly trained tokenizer."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention implementation by its transformers name, e.g. sdpa or eager."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that a Hub repository brings along."})


@dataclass
class SourceArguments:
    """Which data to read."""

    _argument_group_name = "data"  # of `--help`

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub data set. Without it and without files: the sample that is built in."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the Hub data set."})
    train_file: list[str] | None = field(
        default=None,
        metadata={"help": "Files, folders or globs: .jsonl .json .csv .parquet, text also .txt; also .gz and .zst."},
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "As --train_file, for evaluation."})
    validation_fraction: float = field(
        default=0.05,
        metadata={"help": "Share of the rows split off, with the seed, where no validation part is given."},
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Use this many training rows at most: the first; a task's, drawn with the seed."},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use this many validation rows at most, as --max_train_samples."}
    )
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes that read and convert the files."})


@dataclass
class DataArguments(SourceArguments):
    """Which data to read, and how to lay it out in rows."""

    max_length: int = field(default=1024, metadata={"help": "Tokens in a row."})
    packing: bool = field(
        default=True, metadata={"help": "Fill rows with several documents or examples that do not see each other."}
    )


TEXT_FIELD = {"help": "Column that holds the text."}


@dataclass
class TextArguments(DataArguments):
    """Which text to read, and how to lay it out in rows."""

    dataset_text_field: str = field(default="text", metadata=TEXT_FIELD)
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read, tokenize and pack while training, without end, for data larger than the disk; --train_file "
            "may be at s3://, gs://, hf://, http(s)://. Needs --max_steps and a validation part."
        },
    )


@dataclass
class TokenizerArguments(SourceArguments):
    """Which text to learn a vocabulary from, and whether it is a new one."""

    output_dir: str = field(default="outputs/tokenizer", metadata={"help": "Folder of the result, a new one."})
    dataset_text_field: str = field(default="text", metadata=TEXT_FIELD)
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Model to extend, with its tokenizer: a folder, a Hub id or a .gguf file."},
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer to extend, without a model."})
    new_tokens: int = field(default=0, metadata={"help": "Tokens that an extended vocabulary learns at most."})
    special_tokens: list[str] = field(
        default_factory=list,
        metadata={"help": "Tokens to add that training text never turns into, e.g. '<|fim_prefix|>'."},
    )
    algorithm: str = field(
        default="bpe", metadata={"help": "Kind of a new vocabulary, of bytes both.", "choices": ["bpe", "unigram"]}
    )
    vocab_size: int = field(default=32_768, metadata={"help": "Entries of a new vocabulary."})
    seed: int = field(default=42, metadata={"help": "Seed of a split."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that a Hub repository brings along."})

    def __post_init__(self):
        extending = self.model_name_or_path or self.tokenizer_name
        if self.model_name_or_path and self.tokenizer_name:
            raise ValueError("`--tokenizer_name` beside `--model_name_or_path`: a model is extended with its own")
        if extending and not (self.new_tokens or self.special_tokens):
            raise ValueError(f"nothing is to be added to `{extending}`: give `--new_tokens`, or `--special_tokens`")
        if self.new_tokens and not extending:
            raise ValueError("`--new_tokens` extends a vocabulary: name it by `--model_name_or_path`")


PROMPT_STYLE = {
    "help": "plain (for base models) or chat (the tokenizer's chat template). Left out: chat where there is one.",
    "choices": ["plain", "chat"],
}


@dataclass
class PreparationArguments:
    """Which files to prepare, and what is done to their text."""

    _argument_group_name = "preparation"

    files: list[str] = field(metadata={"help": "Files, folders or globs, local or at s3://, gs://, hf://, http(s)://."})
    output_dir: str = field(metadata={"help": "Folder of the shards; it appears when all is done."})
    dataset_text_field: str = field(default="text", metadata=TEXT_FIELD)
    clean: bool = field(default=True, metadata={"help": "Repair Unicode, white space and invisible characters."})
    min_chars: int = field(default=1, metadata={"help": "Drop texts of fewer characters."})
    languages: list[str] | None = field(
        default=None, metadata={"help": "Keep texts of these languages alone, e.g. en zh. Left out: of any."}
    )
    language_threshold: float = field(default=0.65, metadata={"help": "Least probability of a text's language."})
    quality_rules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Published rules for pages of the web, see docs/data.md. Left out: none.",
            "choices": ["gopher", "repetition", "c4", "fineweb"],
        },
    )
    decontaminate: list[str] | None = field(
        default=None,
        metadata={"help": "Files of evaluations: drop texts that share an n-gram of words with them."},
    )
    decontamination_ngram: int = field(default=13, metadata={"help": "Words in a row that are taken for no chance."})
    decontamination_mode: str = field(
        default="drop", metadata={"help": "Drop such a text, or cut what it has in common.", "choices": ["drop", "cut"]}
    )
    anonymize: str = field(
        default="placeholders",
        metadata={
            "help": "Put `<EMAIL>` for an address, or a pseudonym that is the same for each value, `<EMAIL_1f0c9a3b>`.",
            "choices": ["none", "placeholders", "pseudonyms"],
        },
    )
    pseudonym_key_file: str | None = field(
        default=None, metadata={"help": "File with the secret key of the pseudonyms; it is not written anywhere."}
    )
    exact_deduplication: bool = field(default=True, metadata={"help": "Drop texts that are equal to an earlier one."})
    near_deduplication: bool = field(default=True, metadata={"help": "Drop near duplicates of an earlier text."})
    jaccard_threshold: float = field(
        default=0.8, metadata={"help": "Near duplicates have this much of their n-grams of words in common, up to 1."}
    )
    deduplication_ngram: int = field(
        default=5, metadata={"help": "Words (characters where a script has no spaces) of such an n-gram."}
    )
    passage_deduplication: str = field(
        default="none",
        metadata={
            "help": "Leave out lines or paragraphs that stand in an earlier text.",
            "choices": ["none", "lines", "paragraphs"],
        },
    )
    passage_min_chars: int = field(default=50, metadata={"help": "Shorter lines or paragraphs stay."})
    runner: str = field(
        default="native",
        metadata={"help": "Run on this machine's cores or on a Ray cluster.", "choices": ["native", "ray"]},
    )
    ray_address: str | None = field(
        default=None, metadata={"help": "Of the cluster, e.g. ray://head:10001. Left out: one on this machine."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer that counts the tokens: a folder or a Hub id. Left out: none does."}
    )
    shard_bytes: int = field(default=256 << 20, metadata={"help": "Bytes of text in a shard, about."})
    on_error: str = field(
        default="stop",
        metadata={"help": "Whether what cannot be read stops the run or is counted.", "choices": ["stop", "skip"]},
    )


@dataclass
class TaskArguments:
    """Which application, and how its rows become prompts."""

    _argument_group_name = "task"  # of `--help`

    task: str = field(metadata={"help": "A file of hf_llm/tasks/, e.g. summarization or translation."})
    task_options: str | None = field(
        default=None, metadata={"help": "Options of the task, e.g. source=en,target=zh,max_new_tokens=64."}
    )
    column_mapping: str | None = field(
        default=None, metadata={"help": "Columns of the data under the task's names, e.g. body=document,tldr=summary."}
    )
    prompt_style: str | None = field(default=None, metadata=PROMPT_STYLE)
    num_fewshot: int = field(
        default=0,
        metadata={
            "help": "Solved examples put before each prompt, drawn with the seed from train, or else from validation."
        },
    )


@dataclass
class EvalTaskArguments(TaskArguments):
    """Which applications to score."""

    task: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files of hf_llm/tasks/ by their names, or YAML files of recipes/finetune.py, whose task, data and "
            "prompts are taken. Several: the flags of task and data are for all of them."
        },
    )


@dataclass
class AdapterArguments:
    """Low-rank adapters instead of full fine-tuning."""

    _argument_group_name = "adapter"  # of `--help`

    lora_r: int | None = field(default=None, metadata={"help": "Rank of LoRA adapters. Left out: all weights train."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the adapters. Left out: 2 x lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules that get an adapter. Left out: all linear layers but the output."}
    )
    use_dora: bool = field(default=False, metadata={"help": "Weight-decomposed adapters (DoRA)."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Keep the frozen weights in 4 bits (QLoRA); needs the extra `qlora`."}
    )

    def __post_init__(self):
        options = ("use_dora", "load_in_4bit", "lora_alpha", "lora_dropout", "lora_target_modules")
        alone = [name for name in options if getattr(self, name)]
        if self.lora_r is None and alone:
            raise ValueError(f"`--{alone[0]}` belongs to adapters: give `--lora_r` too, e.g. 16")


@dataclass
class PretrainArguments:
    """What a new model learns to predict, and what the recipe does around the Trainer."""

    _argument_group_name = "pretraining"  # of `--help`

    objective: str = field(
        default="causal",
        metadata={
            "help": "Predict the next token, what stands between two texts (fim), or hidden tokens (masked: BERT).",
            "choices": ["causal", "fim", "masked"],
        },
    )
    fim_rate: float = field(default=0.5, metadata={"help": "Share of the texts parted for --objective fim."})
    fim_spm_rate: float = field(default=0.5, metadata={"help": "Share of those that begin with the suffix."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens hidden by --objective masked."})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Train until converged: stop after this many evaluations without a lower validation loss, and keep "
            "the best weights. Needs --eval_strategy steps or epoch."
        },
    )
    sample_prompt: str = field(default="", metadata={"help": "Prompt of the text generated at the end."})

    def __post_init__(self):
        for name in ("fim_rate", "fim_spm_rate", "mlm_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`--{name}` is {getattr(self, name)}: give a share, from 0 to 1")
        if not self.mlm_probability:
            raise ValueError("`--mlm_probability` is 0: give a share above it, or nothing is predicted")


@dataclass
class FinetuneArguments:
    """What the fine-tuning recipe does around the Trainer."""

    _argument_group_name = "fine-tuning"  # of `--help`

    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better `--metric_for_best_model` (the loss, if none is "
            "given), and keep the best weights. Needs --eval_strategy steps or epoch."
        },
    )


@dataclass
class EvalArguments:
    """Which model to score, against which other one."""

    _argument_group_name = "evaluation"  # of `--help`

    model_name_or_path: str = field(
        metadata={"help": "A folder, a Hub id, a .gguf file or the folder of a PEFT adapter."}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "A second model, scored on the same rows; the difference gets a p-value."}
    )
    harness: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Tasks of lm-evaluation-harness (the extra `harness`), by name or as local YAML files; with "
            "--num_fewshot, --max_eval_samples and --prompt_style chat."
        },
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the results. Left out: one in outputs/eval, named by the model and the tasks."},
    )
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Prompts answered together on each rank. Left out: 8, or what a YAML file of a task says."},
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision. Left out: bfloat16 where the hardware has it.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    seed: int = field(default=42, metadata={"help": "Seed of the solved examples and of a split."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that a Hub repository brings along."})


@dataclass
class GenerateArguments:
    """Which prompts to complete, and how; sampling options by their transformers names."""

    _argument_group_name = "generation"  # of `--help`

    model_name_or_path: str = field(metadata={"help": "A folder, a Hub id or a .gguf file."})
    prompt: list[str] | None = field(default=None, metadata={"help": "One or several prompts."})
    prompt_file: str | None = field(
        default=None, metadata={"help": 'File of prompts: .txt, one a line, or .jsonl, {"prompt": ...} a line.'}
    )
    suffix: list[str] | None = field(
        default=None,
        metadata={"help": "What comes behind: a model of `--objective fim` writes the middle. One for each --prompt."},
    )
    output_file: str | None = field(default=None, metadata={"help": "JSON Lines of prompt and completion."})
    prompt_style: str | None = field(default=None, metadata=PROMPT_STYLE)
    batch_size: int = field(default=8, metadata={"help": "Prompts generated together."})
    max_new_tokens: int = field(default=128, metadata={"help": "Tokens of a completion at most."})
    do_sample: bool = field(default=False, metadata={"help": "Draw tokens at random instead of the likeliest."})
    temperature: float = field(default=1.0, metadata={"help": "Below 1 sharpens, above 1 flattens, with --do_sample."})
    top_k: int = field(default=50, metadata={"help": "Draw from this many likeliest tokens; 0: from all."})
    top_p: float = field(default=1.0, metadata={"help": "Draw from the likeliest tokens of this probability together."})
    repetition_penalty: float = field(default=1.0, metadata={"help": "Above 1 makes tokens already used less likely."})
    num_beams: int = field(default=1, metadata={"help": "Beams of a beam search."})
    seed: int = field(default=42, metadata={"help": "Seed of the drawing."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that a Hub repository brings along."})


# Settings of a file that would overrule what these flags ask for.
REPLACED = {"num_train_epochs": ("max_steps",)}
# The same for the default config, which describes its own small model and run.
REPLACED_DEFAULTS = REPLACED | {
    "model_type": ("config_overrides", "initializer_range"),
    "config_overrides": ("initializer_range",),
    "early_stopping_patience": ("max_steps",),
    "streaming": ("max_steps",),  # whose text is not the default's
}

# What transformers takes without a word, or refuses hours later without the flag's name.
AT_LEAST = {
    "max_length": 2,
    "lora_r": 1,
    **dict.fromkeys(
        ("min_chars", "passage_min_chars", "decontamination_ngram", "deduplication_ngram", "shard_bytes"), 1
    ),
    "learning_rate": 0,
    "num_fewshot": 0,
    "new_tokens": 0,
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("max_train_samples", "max_eval_samples"), 1),
    **dict.fromkeys(("early_stopping_patience", "dataset_num_proc", "batch_size", "max_new_tokens", "num_beams"), 1),
}
# Flags that do nothing unless another one is given, or has one of these values.
IDLE_WITHOUT = {
    **dict.fromkeys(("fim_rate", "fim_spm_rate"), ("objective", "fim")),
    "mlm_probability": ("objective", "masked"),
    **dict.fromkeys(("temperature", "top_k", "top_p"), ("do_sample",)),
    "language_threshold": ("languages",),
    **dict.fromkeys(("decontamination_ngram", "decontamination_mode"), ("decontaminate",)),
    "pseudonym_key_file": ("anonymize", "pseudonyms"),
    **dict.fromkeys(("jaccard_threshold", "deduplication_ngram"), ("near_deduplication",)),
    "passage_min_chars": ("passage_deduplication", "lines", "paragraphs"),
    "ray_address": ("runner", "ray"),
    "dataset_config_name": ("dataset_name",),
}
# Flags that do nothing beside one of these.
IDLE_BESIDE = {
    **dict.fromkeys(("vocab_size", "algorithm"), ("tokenizer_name", "model_name_or_path")),
    "validation_fraction": ("validation_file",),
}
# What run_clm.py, TRL, LLaMA-Factory and axolotl call it.
ELSEWHERE = {
    **dict.fromkeys(("block_size", "max_seq_length", "cutoff_len", "sequence_len"), "max_length"),
    **dict.fromkeys(("epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("batch_size", "micro_batch_size"), "per_device_train_batch_size"),
    **dict.fromkeys(("model", "base_model", "model_name"), "model_name_or_path"),
    **dict.fromkeys(("val_size", "validation_split_percentage"), "validation_fraction"),
    "lr": "learning_rate",
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "preprocessing_num_workers": "dataset_num_proc",
    "text_column": "dataset_text_field",
}
# Trackers whose package has their name.
TRACKERS = ("tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "swanlab", "trackio", "dvclive", "codecarbon")
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "ter", "repetition")
ABOVE_ZERO = ("num_train_epochs", "save_steps", "eval_steps", "logging_steps", "temperature")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind the flags, and a recipe's commands as its docstring has them, to be copied."""


def has_trainer(dataclass_types: list[type]) -> bool:
    """Whether `TrainingArguments` are among them: by their name, since importing them takes seconds of `--help`."""
    return any(dataclass_type.__name__ == "TrainingArguments" for dataclass_type in dataclass_types)


class RecipeParser(HfArgumentParser):
    """Flags typed by the dataclasses; an error is one line on stderr, exit status 2, and names what is nearest."""

    def __init__(self, dataclass_types: list[type], description: str | None):
        layout = {"usage": "%(prog)s [--config FILE] [flags]", "formatter_class": HelpFormatter}
        super().__init__(dataclass_types, description=description, allow_abbrev=False, **layout)
        if has_trainer(dataclass_types):
            self._optionals.title = "the Trainer (transformers.TrainingArguments)"
        self._action_groups.append(self._action_groups.pop(self._action_groups.index(self._optionals)))  # the last
        self.add_argument("--config", help="YAML file: a saved command line. Flags given beside it override it.")
        self.origin = ""  # where the flags being parsed come from, for the error message

    def error(self, message: str) -> NoReturn:
        stop(f"{self.origin}{message}", status=2)

    def check_known(self, argv: list[str]) -> None:
        """End where a flag is unknown, which argparse would say after it missed the required ones."""
        known = {option for action in self._actions for option in action.option_strings}
        for flag in argv:
            if flag.startswith("--") and " " not in flag and flag_name(flag) not in known:
                hint = self.nearest(flag) or "; a value that begins with -- is written as `--name=--value`"
                self.error(f"unknown argument `{flag}`{hint}")

    def nearest(self, name: str) -> str:
        """The known flag that an unknown one may mean: by another package's name, a part of it, or its letters."""
        known = [action.dest for action in self._actions if action.dest != "help"]
        dashes, name = "--" * name.startswith("--"), flag_name(name).lstrip("-").replace("-", "_")
        name = ELSEWHERE[name] if ELSEWHERE.get(name) in known else name
        holding = [flag for flag in known if min(len(flag), len(name)) > 3 and (name in flag or flag in name)]
        near = difflib.get_close_matches(name, holding, 1, cutoff=0) or difflib.get_close_matches(name, known, 1)
        return f"; the nearest is `{dashes}{near[0]}`" if near else ""

    def config_flags(self, path: str, replaced: set[str], flag: str = "config") -> list[str]:
        """A YAML file, without the keys in `replaced`, as the command line that it stands for, each value checked."""
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
            settings = yaml.safe_load(text) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"`--{flag}` {path} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(settings, dict):
            raise ValueError(f"`--{flag}` {path}: write lines `key: value`")
        keys = [key.value for key, _ in yaml.compose(text).value] if settings else []
        if twice := [key for key in settings if keys.count(key) > 1]:
            raise ValueError(f"`{path}`: `{twice[0]}` appears twice: keep one")
        known = {action.dest: action for action in self._actions if action.dest not in ("help", "config")}
        for key, value in settings.items():
            if key in known and value is False and "no" in (known[key].choices or ()):
                settings[key] = "no"  # what YAML makes of it
            if key not in known:
                raise ValueError(f"`{path}`: unknown key `{key}`{self.nearest(str(key))}")
        settings = {key: value for key, value in settings.items() if value is not None and key not in replaced}
        flags = [flag for key, value in settings.items() for flag in to_flags(key, value)]
        self.origin = f"`{path}`: "
        self.parse_known_args([*flags, *self.required_flags(settings)])
        self.origin = ""
        return flags

    def required_flags(self, settings: dict[str, Any]) -> list[str]:
        """Stand-ins for required flags that a file need not hold, while the file alone is checked."""
        missing = [action.dest for action in self._actions if action.required and action.dest not in settings]
        return [f"--{name}=x" for name in missing]


def to_flags(key: str, value: Any) -> list[str]:
    """`key: value` of a YAML file as flags; argparse gives the value its type."""
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    return [f"--{key}={value}"]


def parse_args(
    dataclass_types: list[type],
    argv: list[str] | None = None,
    description: str | None = None,
    default_config: str | None = None,
) -> tuple:
    """Parse a recipe's command line into its dataclasses.

    Args:
        dataclass_types: e.g. `[ModelArguments, DataArguments, TrainingArguments]`; every flag is a field of one.
        argv: the command line, `sys.argv[1:]` when left out.
        default_config: file next to the recipe that describes a new model; read when the command line names neither
            `--config` nor `--model_name_or_path`.

    Returns:
        One instance of each dataclass. `TrainingArguments` are made last, after DeepSpeed has been prepared.

    Raises:
        ValueError: unreadable file, unknown key, inconsistent DeepSpeed configuration.
        SystemExit: an unknown flag or a value of the wrong type, with one line on stderr and status 2.
    """
    show_messages()
    argv = sys.argv[1:] if argv is None else argv
    parser = RecipeParser(dataclass_types, description)
    if has_trainer(dataclass_types):
        # None: neither asked for nor refused, so that bfloat16 is used where the hardware has it.
        parser.set_defaults(bf16=None, logging_nan_inf_filter=False)
        parser.set_defaults(restore_callback_states_from_checkpoint=True)  # or patience would begin anew on resuming
    parser.check_known(argv)
    named, unknown = parser.parse_known_args([*parser.required_flags({}), *argv])
    given, config = names_of(argv), named.config
    replacing = REPLACED
    if config is None and getattr(named, "model_name_or_path", None) is None:
        config, replacing = default_config, REPLACED_DEFAULTS
    asked = [name for name in given if getattr(named, name, None) is not False]
    replaced = {setting for name in asked for setting in replacing.get(name, ())}
    flags = parser.config_flags(config, replaced) if config else []
    namespace, unknown = parser.parse_known_args(flags + argv)
    if unknown:
        parser.error(f"unknown argument `{unknown[0]}`{parser.nearest(unknown[0])}")
    for action in parser._actions:
        if action.nargs == "+" and sum(name in action.option_strings for name in map(flag_name, argv)) > 1:
            parser.error(f"`--{action.dest}` is given twice: put all its values behind one")
    values = vars(namespace)
    check_bounds(values)
    in_file = names_of(flags) - given
    check_used(values, given, in_file)
    for event in ("save", "eval"):
        # `--save_steps 100` would do nothing beside a strategy of "no", which is a default or in the file.
        for names, stronger in ((given, set()), (in_file, given)):
            if f"{event}_steps" in names and f"{event}_strategy" not in names | stronger:
                values[f"{event}_strategy"] = "steps"
    return tuple(build(dataclass_type, values) for dataclass_type in dataclass_types)


def parse_task(
    name: str, task_args: EvalTaskArguments, data_args: DataArguments, args: EvalArguments
) -> tuple[TaskArguments, DataArguments, EvalArguments]:
    """The arguments of one `--task` of the evaluation recipe; flags override what a YAML file says.

    Of a file the seed counts too, by which rows were split off and drawn, and the batch size.

    Raises:
        ValueError: the file cannot be read, or has an unknown key.
    """
    if not name.endswith((".yaml", ".yml")):
        return dataclasses.replace(task_args, task=name), data_args, args
    from transformers import TrainingArguments

    groups = [ModelArguments, AdapterArguments, TaskArguments, DataArguments, FinetuneArguments, TrainingArguments]
    parser = RecipeParser(groups, None)
    in_file = parser.config_flags(name, set(), "task")
    values = vars(parser.parse_known_args([*in_file, *sys.argv[1:]])[0])
    of_file, rest = parser.parse_known_args(in_file)
    if rest:
        raise ValueError(f"`--task` {name}: its `task` names several; write a file for each")
    values["task"] = of_file.task  # the flag is the file's name
    batch_size = args.batch_size or values["per_device_eval_batch_size"]
    settings = dataclasses.replace(args, seed=values["seed"], batch_size=batch_size)
    return build(TaskArguments, values), build(DataArguments, values), settings


def results_folder(task_args: EvalTaskArguments, args: EvalArguments) -> str:
    """`--output_dir`, or a folder of its own for this model and these tasks: earlier results stay."""
    tasks = [Path(name).stem for name in (*task_args.task, *args.harness)]
    names = [Path(args.model_name_or_path).name, *tasks]  # of the model with what follows a dot, as in 1.7B
    return args.output_dir or f"outputs/eval/{'-'.join(names)}"


def parse_object(flag: str, text: str) -> dict[str, Any]:
    """A JSON object, as which a mapping in a YAML file arrives.

    Raises:
        ValueError: it is none.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"`{flag}` {text} is no JSON object: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"`{flag}` {text} is no JSON object: write name=value pairs, parted by commas")
    return given


def flag_name(flag: str) -> str:
    """`--max_length=5` -> `--max_length`."""
    return flag.split("=")[0]


def names_of(flags: list[str]) -> set[str]:
    """The arguments that a command line names."""
    return {flag_name(flag).lstrip("-").replace("-", "_") for flag in flags if flag.startswith("--")}


def check_bounds(values: dict[str, Any]) -> None:
    """Refuse numbers that make no sense, before any work."""
    for name, lowest in AT_LEAST.items():
        if values.get(name) is not None and not values[name] >= lowest:  # also where it is no number
            raise ValueError(f"`--{name}` is {values[name]}: give at least {lowest}")
    for name in ABOVE_ZERO:
        if values.get(name) is not None and not values[name] > 0:
            raise ValueError(f"`--{name}` is {values[name]}: give a number above 0")
    if values.get("max_steps", 1) < 1 and values["max_steps"] != -1:
        raise ValueError(f"`--max_steps` is {values['max_steps']}: give at least 1, or -1 for `--num_train_epochs`")


def check_used(values: dict[str, Any], given: set[str], in_file: set[str]) -> None:
    """Refuse what would do nothing; a file may hold it where the command line overrides what it depends on."""
    for name, (needed, *choices) in IDLE_WITHOUT.items():
        named = name in given or (name in in_file and not given & {needed, f"no_{needed}"})
        value = values.get(needed)
        if named and not (value in choices if choices else value):
            remedy = " ".join([needed, *choices[:1]])
            raise ValueError(f"`--{name}` does nothing without `--{remedy}`: give both or neither")
    for name, others in IDLE_BESIDE.items():
        for other in others:
            if values.get(other) and (name in given or {name, other} <= in_file):
                raise ValueError(f"`--{name}` does nothing beside `--{other}`: leave one of them out")


def show_messages() -> None:
    """The package's own messages on stderr, and progress bars: those of rank 0."""
    if int(os.environ.get("RANK", 0)) > 0:
        hide_progress()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for message in ("`is_gradient_checkpointing`", "Could not find a config file"):  # PEFT's: nothing for a user to do
        warnings.filterwarnings("ignore", message=message)
    package = logging.getLogger("hf_llm")
    package.handlers = [handler]
    package.setLevel(logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.ERROR)


def hide_progress() -> None:
    """No bars of `datasets` and transformers."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def build(dataclass_type: type, values: dict[str, Any]) -> Any:
    """One dataclass from the parsed values."""
    fields = {f.name: values[f.name] for f in dataclasses.fields(dataclass_type) if f.init}
    if has_trainer([dataclass_type]):
        return build_training_arguments(fields)
    return dataclass_type(**fields)


def build_training_arguments(values: dict[str, Any]) -> "TrainingArguments":  # noqa: F821 imported below
    """`TrainingArguments` with the token kept out, DeepSpeed prepared, and the precision that the hardware has."""
    import torch
    from transformers import TrainingArguments

    from hf_llm.distributed import prepare_deepspeed, share_cores

    if token := values.pop("hub_token"):
        # huggingface_hub finds it there; in the arguments it would be written to training_args.bin and pushed.
        os.environ["HF_TOKEN"] = token
    check_trackers(values["report_to"])
    on_cpu = values["use_cpu"] or not torch.accelerator.is_available()
    if values["bf16"] is None:
        values["bf16"] = not values["fp16"] and has_bfloat16(on_cpu)
    if on_cpu and not values["deepspeed"]:
        values["use_cpu"] = True  # or TrainingArguments refuses bf16
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found nothing else
        share_cores()
    if values["disable_tqdm"]:
        hide_progress()
    prepare_deepspeed(values)
    if values["push_to_hub"]:
        check_push(values)
        # What is published by mistake cannot be taken back.
        values["hub_private_repo"] = values["hub_private_repo"] is not False
    if (values["metric_for_best_model"] or "").removeprefix("eval_") in LOWER_IS_BETTER:
        # The Trainer takes every score but a loss for one to be raised.
        values["greater_is_better"] = values["greater_is_better"] or False
    values["remove_unused_columns"] = False  # the collator reads the lengths that the model does not take
    values["include_num_input_tokens_seen"] = "non_padding"  # what throughput is counted in
    values["batch_eval_metrics"] = True  # sums per batch, so that evaluation needs no memory for logits
    return TrainingArguments(**values)


def check_trackers(names: str | list[str] | None) -> None:
    """Refuse at the start a tracker whose package is missing."""
    for name in [names] if isinstance(names, str) else names or []:
        packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if name in TRACKERS and not any(map(importlib.util.find_spec, packages)):
            raise ValueError(f"`--report_to` {name} is not installed: `pip install {name}`, or `--report_to none`")


def check_push(values: dict[str, Any]) -> None:
    """Refuse at the start what could only fail, or publish too much, hours later."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    named = values["hub_model_id"] or Path(values["output_dir"] or "trainer_output").resolve().name
    try:
        validate_repo_id(named)
    except HFValidationError as error:
        raise ValueError(f"`--hub_model_id` {named} cannot be a repository: {error}") from None
    if values["hub_strategy"] in ("checkpoint", "all_checkpoints"):
        raise ValueError(
            f"`--hub_strategy` {values['hub_strategy']} would publish optimizer states, which are pickles, and local "
            "paths: take every_save or end"
        )


def has_bfloat16(on_cpu: bool) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself; emulation is slower than float32."""
    import torch

    if on_cpu:
        capabilities = torch.cpu.get_capabilities()
        return capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def stop(message: object, status: int) -> NoReturn:
    """One line on stderr, from each machine or from the rank that alone has the error; and the exit status."""
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", [])):
        bar.close()  # or the message would stand at the end of its line
    first = "0" in (os.environ.get("RANK", "0"), os.environ.get("LOCAL_RANK"))
    if first or getattr(message, "of_one_rank", False):
        print(f"error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    sys.exit(status)


@contextlib.contextmanager
def report_errors():
    """Around a recipe's main: one line on stderr instead of a traceback, which `HF_LLM_TRACEBACK=1` shows.

    Bad input (`ValueError`, or a package that an option needs) ends the recipe with status 2; a loss that is not
    finite, a full disk or a failed push with status 1; Ctrl-C with 130.
    """
    from huggingface_hub.errors import HTTPError

    if os.environ.get("HF_LLM_TRACEBACK"):
        yield
        return
    try:
        yield
    except (ValueError, ImportError) as error:
        stop(error, status=2)
    except HTTPError as error:
        stop(f"the Hub: {error}. Run without `--push_to_hub`, or with another `--hub_model_id` or HF_TOKEN", status=1)
    except (FloatingPointError, OSError) as error:
        stop(error, status=1)
    except KeyboardInterrupt:
        stop("interrupted; with a checkpoint in `--output_dir`, `--resume_from_checkpoint true` goes on", status=130)
