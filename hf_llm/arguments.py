"""What a command line may contain: the recipes' argument dataclasses, used in addition to `TrainingArguments`.

Metadata of a field, besides argparse's `help` and `choices`:

- `min` (at least) or `above` (greater than), and with one of them `max` (at most): the bounds of its value;
- `requires`: another argument, without which this one has no effect. Values after its name are those that it must have;
- `excludes`: arguments with which it has no effect;
- `mapping`: it takes `key=value` pairs or a mapping, whose values are "typed" as in YAML, or "text";
- `positional`: its values are written without the flag.

Those of `TrainingArguments` have such metadata in `TRAINER_METADATA`, and other defaults in `TRAINER_DEFAULTS`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

TEXT_FIELD = {
    "help": "Column that contains the text; several are joined as title+body, a field in an object is content.text."
}
PROMPT_BATCH = {"help": "Number of prompts per batch and rank.", "min": 1}
PATIENCE = (
    "Stop after this many evaluations in a row without a better {}, and keep the best weights. Default: no early "
    "stopping. Requires --eval_strategy steps or epoch."
)
PROMPT_STYLE = {
    "help": "Format of the prompts: plain text for base models, or the tokenizer's chat template. Default: chat if the "
    "tokenizer has a template, else plain.",
    "choices": ["plain", "chat"],
}
CHAT_TEMPLATE = {
    "help": "Jinja file of a chat template, or the name of a built-in one for base models: chatml or alpaca. "
    "Default: the tokenizer's own."
}
CHAT_TEMPLATE_KWARGS = {
    "help": "Variables of the chat template as key=value pairs or a mapping, e.g. enable_thinking=false; "
    "strftime_now=2024-07-26 sets the day that it writes. Values are parsed as YAML.",
    "mapping": "typed",
}
SYSTEM_PROMPT = {"help": "System message of the chats that have none of their own."}
REMOTE_CODE = {"help": "Allow running code from the Hub repository of a model or tokenizer."}
MODEL = "Model folder, Hub id or .gguf file"

# Defaults of the recipes that are not those of `TrainingArguments`. None: not given.
TRAINER_DEFAULTS = {
    "bf16": None,  # if the hardware supports it
    "do_train": None,
    "do_eval": None,
    "logging_nan_inf_filter": False,
    "restore_callback_states_from_checkpoint": True,  # or early stopping counts from 0 again
    "remove_unused_columns": False,
    "include_num_input_tokens_seen": "non_padding",
    "batch_eval_metrics": True,
    "report_to": "none",
    "logging_steps": 0.01,  # of the run: about 100 points of a curve, or all steps of a short run
    "logging_first_step": True,
}
# What transformers accepts silently, reads only with another flag, or refuses hours later without the flag's name.
TRAINER_METADATA: dict[str, dict[str, Any]] = {
    **{name: {"min": 1} for name in ("per_device_train_batch_size", "per_device_eval_batch_size")},
    **{name: {"min": 1} for name in ("gradient_accumulation_steps", "save_total_limit", "eval_accumulation_steps")},
    **{name: {"above": 0} for name in ("save_steps", "eval_steps", "logging_steps", "neftune_noise_alpha")},
    **{name: {"min": 0} for name in ("learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon", "warmup_steps")},
    **{name: {"min": 0, "max": 1} for name in ("adam_beta1", "adam_beta2", "label_smoothing_factor")},
    **{name: {"min": 0, "max": 2**32 - 1} for name in ("seed", "data_seed")},
    **{name: {"requires": ("push_to_hub",)} for name in ("hub_model_id", "hub_revision", "hub_always_push")},
    "eval_delay": {"requires": ("eval_strategy", "steps", "epoch")},
    "load_best_model_at_end": {"requires": ("eval_strategy", "steps", "epoch")},
    "metric_for_best_model": {"requires": ("eval_strategy", "steps", "epoch")},
    "greater_is_better": {"requires": ("eval_strategy", "steps", "epoch")},
    "dataloader_persistent_workers": {"requires": ("dataloader_num_workers",)},
    "dataloader_prefetch_factor": {"requires": ("dataloader_num_workers",)},
    "dataloader_multiprocessing_context": {"requires": ("dataloader_num_workers",)},
    "dataloader_num_workers": {"min": 0},
    "num_train_epochs": {"above": 0, "max": 1e9},
    "torch_empty_cache_steps": {"min": 1},
    "ddp_timeout": {"min": 1},
    "lr_scheduler_kwargs": {"mapping": "typed"},
    "activation_checkpointing_kwargs": {"mapping": "typed"},
    "gradient_checkpointing_kwargs": {"mapping": "typed"},
    "liger_kernel_config": {"mapping": "typed", "requires": ("use_liger_kernel",)},
    "bf16": {"help": "Train in bfloat16 (mixed precision). Default: if the hardware supports it."},
    "hub_private_repo": {"help": "Whether a new repository is private. Default: true."},
    "resume_from_checkpoint": {
        "help": "`true` resumes from the newest complete checkpoint in --output_dir, or starts if there is none. Else "
        "the path of a checkpoint. Default: a new run."
    },
    "do_train": {"help": "The recipe always trains. recipes/eval.py only evaluates."},
    "do_eval": {"help": "The recipe always evaluates after training; --eval_strategy adds evaluations during it."},
    "do_predict": {"help": "Not supported: recipes/eval.py writes predictions."},
}


def check_bounds(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a number out of the bounds `min`, `above` and `max` of its field; None is in bounds."""
    if value is None or not metadata.keys() & {"min", "above"}:
        return
    high_enough = value >= metadata["min"] if "min" in metadata else value > metadata["above"]
    if not (high_enough and value <= metadata.get("max", math.inf)):  # also if it is NaN
        remedy = f"at least {metadata['min']}" if "min" in metadata else f"a number above {metadata['above']}"
        remedy += f" and at most {metadata['max']}" if "max" in metadata else ""
        raise ValueError(f"`--{name}` is {value}: give {remedy}")


@dataclass
class Arguments:
    """Base class of the argument dataclasses, whose bounds hold on a command line and in Python.

    Raises:
        ValueError: a value is out of its bounds.
    """

    def __post_init__(self):
        for option in fields(self):
            check_bounds(option.name, getattr(self, option.name), option.metadata)


def parse_duration(text: str, flag: str = "time_budget") -> float:
    """Read a duration as seconds.

    Args:
        text: a number with a unit, several of them, or seconds.
        flag: the argument, for the error message.

    Raises:
        ValueError: it is not a duration, or not above 0.

    Example:
        >>> [parse_duration(text) for text in ("90", "90s", "1h30m", "0.5m")]
        [90.0, 90.0, 5400.0, 30.0]
    """
    units = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1, "": 1}
    number = r"(\d+(?:\.\d+)?)"
    if re.fullmatch(rf"{number}|(?:{number}\s*(?:d|h|min|m|s)\s*)+", text.strip()):
        seconds = sum(float(count) * units[unit] for count, unit in re.findall(rf"{number}\s*(d|h|min|m|s|)", text))
        if 0 < seconds < math.inf:
            return seconds
    raise ValueError(f"`--{flag}` {text} is not a duration: give e.g. 90s, 10m, 2h or 1h30m")


@dataclass(kw_only=True)
class OutputArguments(Arguments):
    """How a recipe gives its result to a program."""

    json: bool = field(
        default=False,
        metadata={
            "help": "Print one JSON object on the last line of stdout: the output folder and the metrics, or the error."
        },
    )


@dataclass(kw_only=True)
class RunArguments(OutputArguments):
    """What recipes that train do in addition to the Trainer.

    Raises:
        ValueError: as `Arguments`; the time budget is not a duration.
    """

    time_budget: str | None = field(
        default=None,
        metadata={
            "help": "Stop training in time to evaluate and save within this time from the start of the command, e.g. "
            "90s, 10m, 2h. An evaluation at the start measures what it takes. Default: train to the end."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.time_budget is not None:
            parse_duration(self.time_budget)


@dataclass
class ModelArguments(Arguments):
    """Which model and tokenizer to start from."""

    _argument_group_name = "model"  # of `--help`

    model_name_or_path: str | None = field(
        default=None, metadata={"help": f"{MODEL} to start from. Default: a new model with random weights."}
    )
    model_type: str = field(
        default="llama",
        metadata={"help": "Architecture of a new model: any AutoConfig model type with a causal or masked LM."},
    )
    config_overrides: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Config settings of a new model as key=value pairs or a mapping, e.g. "
            "hidden_size=256,num_hidden_layers=6. Values are parsed as YAML.",
            "mapping": "typed",
        },
    )
    initializer_range: float | None = field(
        default=None,
        metadata={
            "help": "Standard deviation of the normal distribution of a new model's weights (mean 0). Default: that of "
            "the architecture, e.g. 0.02 for GPT-2."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer folder or Hub id. Default: the tokenizer of the model, or for a new model one that is "
            "trained on the training data."
        },
    )
    vocab_size: int = field(
        default=8192,
        metadata={
            "help": "Vocabulary size of a newly trained tokenizer.",
            "excludes": ("tokenizer_name", "model_name_or_path"),
        },
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "Attention implementation, e.g. sdpa or eager. Default: chosen by transformers."},
    )
    save_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the final weights in --output_dir; checkpoints stay as they are trained. Default: "
            "that of the model to start from; float32 for a new model and for adapters.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    trust_remote_code: bool = field(default=False, metadata=REMOTE_CODE)


@dataclass(kw_only=True)
class ReadingArguments(Arguments):
    """How to read files of every format.

    Raises:
        ValueError: as `Arguments`; the encoding is unknown.
    """

    encoding: str = field(
        default="utf-8",
        metadata={
            "help": "Encoding of files without a byte order mark and of pages that declare none, e.g. cp1252, gb18030."
        },
    )
    csv_escape: str = field(
        default="none",
        metadata={
            "help": 'Quotation marks inside a quoted field of a .csv file: only doubled as "", or also as \\".',
            "choices": ["none", "backslash"],
        },
    )
    max_text_bytes: int = field(
        default=256 << 20,
        metadata={"help": "Maximum size of one row or document in bytes; longer ones are unreadable.", "min": 1},
    )
    text_extensions: list[str] = field(
        default_factory=list,
        metadata={"help": "Extensions of files that are read as one text each, besides .txt and .md, e.g. .py .rst."},
    )

    def __post_init__(self):
        super().__post_init__()
        try:
            "a".encode(self.encoding)
        except (LookupError, UnicodeError):  # LookupError: also a codec that is not for text
            raise ValueError(
                f"`--encoding` {self.encoding} is unknown: give a codec of Python, e.g. utf-8, cp1252, gb18030"
            ) from None
        self.text_extensions = [extension.lower() for extension in self.text_extensions]
        for extension in self.text_extensions:
            if not re.fullmatch(r"\.[^./\s]+", extension):
                raise ValueError(f"`--text_extensions` {extension} is not an extension: give them as .py .rst")

    def reading(self) -> "ReadingArguments":
        """Return these settings alone, without those of a class that inherits them."""
        return ReadingArguments(**{option.name: getattr(self, option.name) for option in fields(ReadingArguments)})


@dataclass
class SourceArguments(ReadingArguments):
    """Which data to read."""

    _argument_group_name = "data"  # of `--help`

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Dataset on the Hub. Default: the files, or without files the built-in sample."},
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the Hub dataset.", "requires": ("dataset_name",)}
    )
    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Training files, folders or globs: .jsonl, .csv, .parquet, .arrow, .zip and others, for text also "
            ".txt, .pdf, .warc; FILE=COLUMN names a column of its own. All formats: docs/data.md."
        },
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "Validation files, folders or globs, in the formats of --train_file."}
    )
    validation_fraction: float = field(
        default=0.05,
        metadata={
            "help": "Fraction of the training rows that is split off for validation if there is no validation split; "
            "drawn with the seed.",
            "excludes": ("validation_file",),
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of training rows: the first ones, or for a task a random subset. Default: all.",
            "min": 1,
        },
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of validation rows, chosen as for --max_train_samples. Default: that number, or "
            "all of a --validation_file or of a Hub dataset.",
            "min": 1,
        },
    )
    dataset_num_proc: int | None = field(
        default=None,
        metadata={"help": "Number of processes for reading the files. Default: 1.", "min": 1},
    )

    def limits(self) -> dict[str, int | None]:
        """Return the maximum number of rows of each split; None: no limit."""
        chosen = self.validation_file or self.dataset_name
        # A short try would otherwise be evaluated on hundreds of rows.
        default = None if chosen else self.max_train_samples
        return {"train": self.max_train_samples, "validation": self.max_eval_samples or default}


@dataclass
class LayoutArguments(SourceArguments):
    """Which data of one source to read, and how to lay it out in rows."""

    max_length: int = field(
        default=1024,
        metadata={"help": "Maximum number of tokens per row; by default as many as a model with fewer has.", "min": 2},
    )
    packing: bool = field(
        default=True,
        metadata={"help": "Put several documents or examples into one row, without attention between them."},
    )


@dataclass
class DataArguments(LayoutArguments):
    """Which data to read, and how to lay it out in rows.

    Raises:
        ValueError: as `ReadingArguments`; the fold is not one, or is given beside held-out files.
    """

    mixture: str | None = field(
        default=None,
        metadata={
            "help": "YAML file that names sources of training rows and the share of each, see docs/mixtures.md.",
            "excludes": ("train_file", "validation_file", "dataset_name"),
        },
    )
    stopping_strategy: str = field(
        default="first_exhausted",
        metadata={
            "help": "End of an epoch of a --mixture: before the first source would repeat a row, or when every source "
            "has no new row left.",
            "choices": ["first_exhausted", "all_exhausted"],
            "requires": ("mixture",),
        },
    )
    fold: str | None = field(
        default=None,
        metadata={
            "help": "Fold of the training rows to hold out for validation, e.g. 2/5 for the second of five; drawn with "
            "the seed. --max_train_samples then limits the rows that are divided.",
        },
    )
    group_field: str | None = field(
        default=None,
        metadata={
            "help": "Column whose rows with equal values stay in one fold, e.g. the author or the document.",
            "requires": ("fold",),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.fold is None:
            return
        self.fold_numbers()
        if self.validation_file:
            raise ValueError(
                "`--fold` and `--validation_file` both say which rows are held out: give one of them; the best of "
                "several settings can be tested on the file by recipes/eval.py"
            )

    def fold_numbers(self) -> tuple[int, int]:
        """Return the number of the fold to hold out, from 1, and the number of folds.

        Raises:
            ValueError: they are not written as 2/5.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", f"{self.fold}")
        number, folds = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= folds or folds < 2:
            raise ValueError(f"`--fold` is {self.fold}: give the number of a fold and of all folds, e.g. 2/5")
        return number, folds


@dataclass
class TextArguments(DataArguments):
    """Which text to read, and how to lay it out in rows."""

    dataset_text_field: str = field(default="text", metadata=TEXT_FIELD)
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read, tokenize and pack during training, for data larger than the disk; --train_file may then "
            "name URLs (s3://, gs://, hf://, http(s)://). Requires --max_steps and a validation split."
        },
    )


@dataclass
class TokenizerArguments(OutputArguments, SourceArguments):
    """Which text to train a tokenizer on, and whether it is new or extends another one."""

    output_dir: str = field(
        default="outputs/tokenizer", metadata={"help": "Output folder, which must be new or empty."}
    )
    dataset_text_field: str = field(default="text", metadata=TEXT_FIELD)
    model_name_or_path: str | None = field(
        default=None, metadata={"help": f"{MODEL} to extend together with its tokenizer."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer folder or Hub id to extend without a model."}
    )
    new_tokens: int = field(
        default=0, metadata={"help": "Maximum number of tokens that an extended vocabulary learns.", "min": 0}
    )
    special_tokens: list[str] = field(
        default_factory=list,
        metadata={"help": "Special tokens to add, which training text is never encoded as, e.g. '<|fim_prefix|>'."},
    )
    algorithm: str = field(
        default="bpe",
        metadata={
            "help": "Algorithm of a new tokenizer; both work on bytes.",
            "choices": ["bpe", "unigram"],
            "excludes": ("tokenizer_name", "model_name_or_path"),
        },
    )
    vocab_size: int = field(
        default=32_768,
        metadata={
            "help": "Vocabulary size of a new tokenizer.",
            "excludes": ("tokenizer_name", "model_name_or_path"),
        },
    )
    seed: int = field(default=42, metadata={"help": "Random seed of the validation split."})
    trust_remote_code: bool = field(default=False, metadata=REMOTE_CODE)

    def __post_init__(self):
        super().__post_init__()
        extended = self.model_name_or_path or self.tokenizer_name
        if self.model_name_or_path and self.tokenizer_name:
            raise ValueError(
                "`--tokenizer_name` and `--model_name_or_path` are both given: a model is extended with its own "
                "tokenizer, name one of them"
            )
        if extended and not (self.new_tokens or self.special_tokens):
            raise ValueError(f"nothing is to be added to `{extended}`: give `--new_tokens` or `--special_tokens`")
        if self.new_tokens and not extended:
            raise ValueError(
                "`--new_tokens` extends a vocabulary: name the model or tokenizer with `--model_name_or_path`"
            )


@dataclass(kw_only=True)
class TokenizationArguments(OutputArguments, LayoutArguments):
    """Which text to tokenize once for many runs, and how to lay it out in rows."""

    tokenizer_name: str = field(metadata={"help": "Tokenizer: a folder or Hub id, also that of a model."})
    output_dir: str = field(default="outputs/tokens", metadata={"help": "Output folder, which must be new or empty."})
    dataset_text_field: str = field(default="text", metadata=TEXT_FIELD)
    shard_bytes: int = field(default=1 << 30, metadata={"help": "Approximate size of a shard in bytes.", "min": 1})
    seed: int = field(default=42, metadata={"help": "Random seed of the validation split."})
    trust_remote_code: bool = field(default=False, metadata=REMOTE_CODE)


@dataclass
class PreparationArguments(OutputArguments, ReadingArguments):
    """Which files to prepare, and which steps to apply to their text."""

    _argument_group_name = "preparation"  # of `--help`

    files: list[str] = field(
        metadata={"help": "Input files, folders or globs, local or at s3://, gs://, hf:// or http(s)://."}
    )
    output_dir: str = field(metadata={"help": "Output folder of the shards, which appears when all are written."})
    dataset_text_field: str = field(default="text", metadata=TEXT_FIELD)
    keep_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Other columns that go with each text into the shards, e.g. id url."},
    )
    clean: bool = field(default=True, metadata={"help": "Repair Unicode, white space and invisible characters."})
    min_chars: int = field(
        default=1, metadata={"help": "Minimum length of a document in characters; shorter ones are dropped.", "min": 1}
    )
    languages: list[str] | None = field(
        default=None,
        metadata={"help": "Keep only documents in these languages, e.g. en zho_Hant. Default: all languages."},
    )
    language_threshold: float = field(
        default=0.65,
        metadata={
            "help": "Minimum probability of a document's language, up to 1.",
            "above": 0,
            "max": 1,
            "requires": ("languages",),
        },
    )
    max_text_seconds: float = field(
        default=60,
        metadata={
            "help": "Maximum CPU time in seconds of the steps for one text, per million characters of longer ones; a "
            "text that takes more is unreadable.",
            "above": 0,
        },
    )
    quality_rules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Published quality filters for web pages, see docs/data.md. Default: none.",
            "choices": ["gopher", "repetition", "c4", "fineweb"],
        },
    )
    decontaminate: list[str] | None = field(
        default=None,
        metadata={"help": "Files of evaluation data; documents that share a word n-gram with them are dropped."},
    )
    decontamination_ngram: int = field(
        default=13,
        metadata={
            "help": "Length in words of the n-grams that count as contamination.",
            "min": 1,
            "requires": ("decontaminate",),
        },
    )
    decontamination_mode: str = field(
        default="drop",
        metadata={
            "help": "Drop a contaminated document, or cut out the shared words.",
            "choices": ["drop", "cut"],
            "requires": ("decontaminate",),
        },
    )
    anonymize: str = field(
        default="placeholders",
        metadata={
            "help": "Replace personal data such as e-mail addresses with placeholders, <EMAIL>, or with pseudonyms "
            "that are the same for the same value, <EMAIL_1f0c9a3b>.",
            "choices": ["none", "placeholders", "pseudonyms"],
        },
    )
    pseudonym_key_file: str | None = field(
        default=None,
        metadata={
            "help": "File with the secret key of the pseudonyms, which is never written to the output.",
            "requires": ("anonymize", "pseudonyms"),
        },
    )
    exact_deduplication: bool = field(
        default=True, metadata={"help": "Drop documents that are equal to an earlier one."}
    )
    near_deduplication: bool = field(
        default=True, metadata={"help": "Drop near duplicates of an earlier document (MinHash)."}
    )
    jaccard_threshold: float = field(
        default=0.8,
        metadata={
            "help": "Minimum Jaccard similarity of the word n-grams of near duplicates, up to 1.",
            "above": 0,
            "max": 1,
            "requires": ("near_deduplication",),
        },
    )
    deduplication_ngram: int = field(
        default=5,
        metadata={
            "help": "Length of the n-grams for near deduplication, in words, or in characters for scripts without "
            "spaces.",
            "min": 1,
            "requires": ("near_deduplication",),
        },
    )
    passage_deduplication: str = field(
        default="none",
        metadata={
            "help": "Remove lines or paragraphs that occur in an earlier document.",
            "choices": ["none", "lines", "paragraphs"],
        },
    )
    passage_min_chars: int = field(
        default=50,
        metadata={
            "help": "Minimum length in characters of the lines or paragraphs that are removed.",
            "min": 1,
            "requires": ("passage_deduplication", "lines", "paragraphs"),
        },
    )
    runner: str = field(
        default="native",
        metadata={"help": "Run on the cores of this machine or on a Ray cluster.", "choices": ["native", "ray"]},
    )
    ray_address: str | None = field(
        default=None,
        metadata={
            "help": "Address of the Ray cluster, e.g. ray://head:10001. Default: a local one is started.",
            "requires": ("runner", "ray"),
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer folder or Hub id for counting tokens. Default: tokens are not counted."},
    )
    shard_bytes: int = field(
        default=256 << 20, metadata={"help": "Approximate size of a shard in bytes of text.", "min": 1}
    )
    on_error: str = field(
        default="stop",
        metadata={"help": "Stop at unreadable input, or skip and count it.", "choices": ["stop", "skip"]},
    )
    max_unreadable: float = field(
        default=0.01,
        metadata={
            "help": "With --on_error skip, the maximum share of all bytes that may be unreadable; beyond it the run "
            "fails.",
            "min": 0,
            "max": 1,
            "requires": ("on_error", "skip"),
        },
    )


@dataclass
class TaskArguments(Arguments):
    """Which application, and how its rows become prompts."""

    _argument_group_name = "task"  # of `--help`

    task: str = field(
        default="",
        metadata={
            "help": "Name of a task in hf_llm/tasks/, e.g. summarization or translation. Default: custom, with "
            "--prompt_template."
        },
    )
    task_options: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Options of the task as key=value pairs or a mapping, e.g. source=en,target=zh,max_new_tokens=64.",
            "mapping": "text",
        },
    )
    column_mapping: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Columns of the data and the task's names for them, as pairs COLUMN=NAME or a mapping, e.g. "
            "body=document,tldr=summary.",
            "mapping": "text",
        },
    )
    prompt_style: str | None = field(default=None, metadata=PROMPT_STYLE)
    chat_template: str | None = field(default=None, metadata=CHAT_TEMPLATE)
    chat_template_kwargs: dict[str, Any] | None = field(default=None, metadata=CHAT_TEMPLATE_KWARGS)
    system_prompt: str | None = field(default=None, metadata=SYSTEM_PROMPT)
    train_on: str = field(
        default="assistant",
        metadata={
            "help": "What is trained of a conversation: every turn of the assistant, only its last one, or all of the "
            "text (all), also of prompts that are no conversations.",
            "choices": ["assistant", "last", "all"],
        },
    )
    num_fewshot: int | None = field(
        default=None,
        metadata={
            "help": "Number of solved examples before each prompt, drawn with the seed from the training split, or "
            "from the validation split if there is no other. Default: none; with --harness, the number of each task.",
            "min": 0,
        },
    )
    prompt_template: str | None = field(
        default=None,
        metadata={
            "help": r"Jinja template of the prompt over the columns of a row, or a .jinja file, e.g. 'Question: "
            r"{{ question }}\nAnswer:', where \n is a line break."
        },
    )
    completion_template: str | None = field(
        default=None,
        metadata={
            "help": "The same for the answer; a list, e.g. {{ answers }}, holds several gold answers. Default: "
            "{{ answer }}.",
            "requires": ("prompt_template",),
        },
    )
    metric: str | None = field(
        default=None,
        metadata={
            "help": "Metric of generated answers. Default: exact_match with --prompt_template, else the task's.",
            "choices": ["accuracy", "exact_match", "f1", "rouge", "bleu", "chrf", "repetition"],
        },
    )
    answer_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Regular expression of the answer in generated and gold texts: its last match, or the first group "
            "of it; number: the number after ####, or else the last one. Default: the whole text."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.prompt_template is not None and not self.task:
            self.task = "custom"
        self.add_task_options()

    def add_task_options(self) -> None:
        """Add the flags that are options of tasks to `task_options`."""
        flags = {"metric_name": self.metric}
        flags |= {name: getattr(self, name) for name in ("prompt_template", "completion_template", "answer_pattern")}
        given = {name: value for name, value in flags.items() if value is not None}
        self.task_options = {**(self.task_options or {}), **given} or self.task_options


@dataclass
class EvalTaskArguments(TaskArguments):
    """Which applications to score."""

    task: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names of tasks in hf_llm/tasks/, or YAML files of recipes/finetune.py, whose task, data and "
            "prompt settings are used. Flags of the command line apply to all tasks. Default: custom, with "
            "--prompt_template."
        },
    )
    train_on: str = field(default="assistant", init=False)  # no flag: nothing is trained

    def __post_init__(self):
        Arguments.__post_init__(self)
        if self.prompt_template is not None and not self.task:
            self.task = ["custom"]
        self.add_task_options()


@dataclass
class AdapterArguments(Arguments):
    """Low-rank adapters instead of full fine-tuning."""

    _argument_group_name = "adapter"  # of `--help`

    lora_r: int | None = field(
        default=None, metadata={"help": "Rank of the LoRA adapters. Default: train all weights.", "min": 1}
    )
    lora_alpha: int | None = field(
        default=None, metadata={"help": "Scale (alpha) of the LoRA adapters. Default: 2 * lora_r."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout probability of the adapters' inputs."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the modules that get an adapter. Default: all linear layers except the output."},
    )
    use_dora: bool = field(default=False, metadata={"help": "Use weight-decomposed adapters (DoRA)."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Quantize the frozen weights to 4 bits (QLoRA). Requires the extra `qlora`."}
    )

    def __post_init__(self):
        super().__post_init__()
        options = [option.name for option in fields(self) if option.name != "lora_r" and getattr(self, option.name)]
        if self.lora_r is None and options:
            raise ValueError(f"`--{options[0]}` belongs to adapters: give `--lora_r` too, e.g. 16")


@dataclass
class PretrainArguments(RunArguments):
    """What a new model learns to predict, and what the recipe does in addition to the Trainer."""

    _argument_group_name = "pretraining"  # of `--help`

    objective: str = field(
        default="causal",
        metadata={
            "help": "Predict the next token (causal), also the middle of a text from its two ends (fim: fill in the "
            "middle), or masked tokens (masked, as in BERT).",
            "choices": ["causal", "fim", "masked"],
        },
    )
    fim_rate: float = field(
        default=0.5,
        metadata={
            "help": "Fraction of the documents that are rearranged for filling in the middle, from 0 to 1.",
            "min": 0,
            "max": 1,
            "requires": ("objective", "fim"),
        },
    )
    fim_spm_rate: float = field(
        default=0.5,
        metadata={
            "help": "Fraction of the rearranged documents in the order suffix-prefix-middle, from 0 to 1; the others "
            "are in the order prefix-suffix-middle.",
            "min": 0,
            "max": 1,
            "requires": ("objective", "fim"),
        },
    )
    mlm_probability: float = field(
        default=0.15,
        metadata={
            "help": "Fraction of the tokens to mask and predict, above 0 and at most 1.",
            "above": 0,
            "max": 1,
            "requires": ("objective", "masked"),
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": PATIENCE.format("validation loss"), "min": 1},
    )
    sample_prompt: str = field(default="", metadata={"help": "Prompt of the sample text generated after training."})


@dataclass
class FinetuneArguments(RunArguments):
    """What the fine-tuning recipe does in addition to the Trainer."""

    _argument_group_name = "fine-tuning"  # of `--help`

    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": PATIENCE.format("--metric_for_best_model (default: the loss)"),
            "min": 1,
        },
    )


@dataclass
class EvalArguments(OutputArguments):
    """Which model to score, and against which other one."""

    _argument_group_name = "evaluation"  # of `--help`

    model_name_or_path: str = field(metadata={"help": f"{MODEL}, or the folder of a PEFT adapter."})
    baseline: str | None = field(
        default=None,
        metadata={"help": "A second model to score on the same rows; the difference is reported with a p-value."},
    )
    harness: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Tasks of lm-evaluation-harness, by name or as local YAML files; --num_fewshot, --seed, "
            "--max_eval_samples, and --prompt_style chat with its template apply to them. Requires the extra `harness`."
        },
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the results. Default: a folder in outputs/eval named after model and tasks."},
    )
    batch_size: int | None = field(
        default=None,
        metadata=PROMPT_BATCH | {"help": f"{PROMPT_BATCH['help']} Default: that of a task's YAML file, else 8."},
    )
    num_samples: int | None = field(
        default=None,
        metadata={
            "help": "Sample this many answers to each row, and report the mean of their scores, pass@k and the "
            "majority's score. Default: one answer by greedy search.",
            "min": 1,
        },
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Temperature of sampling.", "above": 0, "requires": ("num_samples",)}
    )
    top_p: float = field(
        default=1.0,
        metadata={
            "help": "Sample from the most likely tokens whose probabilities add up to this.",
            "above": 0,
            "max": 1,
            "requires": ("num_samples",),
        },
    )
    top_k: int = field(
        default=0,
        metadata={
            "help": "Sample from this many most likely tokens; 0: from all.",
            "min": 0,
            "requires": ("num_samples",),
        },
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Data type of the weights. Default: bfloat16 if the hardware supports it, else float32.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    seed: int = field(
        default=42, metadata={"help": "Random seed of few-shot examples, of sampling and of the validation split."}
    )
    trust_remote_code: bool = field(default=False, metadata=REMOTE_CODE)


@dataclass
class CompareArguments(OutputArguments):
    """Which runs to compare, and what to ask of them."""

    _argument_group_name = "comparison"  # of `--help`

    folders: list[str] = field(
        metadata={
            "help": "Folders of training runs or of results of recipes/eval.py, or folders that hold several of them. "
            "Runs whose settings differ only in seed and fold form one group.",
            "positional": True,
        }
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for comparison.html, comparison.md and comparison.json. Default: print the result."},
    )
    metric: str | None = field(
        default=None,
        metadata={
            "help": "Score that the verdict is about, e.g. accuracy or bits_per_byte. Default: the first one that all "
            "have."
        },
    )
    subject: str | None = field(
        default=None,
        metadata={
            "help": "Whether settings are compared, which takes several seeds or folds of each, or models, each by "
            "itself on such rows. Default: models if all folders are of recipes/eval.py, else settings.",
            "choices": ["settings", "models"],
        },
    )
    fail_unless_better: str | None = field(
        default=None,
        metadata={
            "help": "A score: exit with status 1 unless the first folder's group is better in it than all others.",
            "excludes": ("metric",),
        },
    )


@dataclass
class GenerateArguments(OutputArguments):
    """Which prompts to complete, and how; sampling options have the names that transformers gives them."""

    _argument_group_name = "generation"  # of `--help`

    model_name_or_path: str = field(metadata={"help": f"{MODEL}."})
    prompt: list[str] | None = field(default=None, metadata={"help": "One or more prompts."})
    prompt_file: str | None = field(
        default=None,
        metadata={
            "help": 'File of prompts: .txt with one per line, or .jsonl with {"prompt": ...}, or a conversation '
            '{"messages": [...]}, per line.'
        },
    )
    suffix: list[str] | None = field(
        default=None,
        metadata={
            "help": "Text that follows the completion, one for each --prompt; for a model trained with --objective fim."
        },
    )
    output_file: str | None = field(
        default=None,
        metadata={"help": "JSON Lines file for prompts and completions. Default: print them."},
    )
    prompt_style: str | None = field(default=None, metadata=PROMPT_STYLE)
    chat_template: str | None = field(default=None, metadata=CHAT_TEMPLATE)
    chat_template_kwargs: dict[str, Any] | None = field(default=None, metadata=CHAT_TEMPLATE_KWARGS)
    system_prompt: str | None = field(default=None, metadata=SYSTEM_PROMPT)
    batch_size: int = field(default=8, metadata=PROMPT_BATCH)
    max_new_tokens: int = field(default=128, metadata={"help": "Maximum number of tokens of a completion.", "min": 1})
    do_sample: bool = field(default=False, metadata={"help": "Sample tokens instead of taking the most likely one."})
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Temperature of sampling: the distribution is sharper below 1 and flatter above 1.",
            "above": 0,
            "requires": ("do_sample",),
        },
    )
    top_k: int = field(
        default=50,
        metadata={"help": "Sample from this many most likely tokens; 0: from all.", "requires": ("do_sample",)},
    )
    top_p: float = field(
        default=1.0,
        metadata={
            "help": "Sample from the most likely tokens whose probabilities add up to this.",
            "requires": ("do_sample",),
        },
    )
    repetition_penalty: float = field(
        default=1.0,
        metadata={"help": "Penalty of tokens that occur already; 1 is none, and higher values repeat less."},
    )
    num_beams: int = field(default=1, metadata={"help": "Number of beams; 1: no beam search.", "min": 1})
    seed: int = field(default=42, metadata={"help": "Random seed of sampling."})
    trust_remote_code: bool = field(default=False, metadata=REMOTE_CODE)


@dataclass
class ChatArguments(OutputArguments):
    """Which model to talk to, and how it answers; without a flag, as its generation_config.json says."""

    _argument_group_name = "conversation"  # of `--help`

    model_name_or_path: str = field(metadata={"help": f"{MODEL}, or the folder of a PEFT adapter."})
    message: list[str] | None = field(
        default=None,
        metadata={"help": "Messages to send one after the other. Default: lines of the terminal, or of a pipe."},
    )
    system_prompt: str | None = field(default=None, metadata=SYSTEM_PROMPT)
    prompt_style: str | None = field(default=None, metadata=PROMPT_STYLE)
    chat_template: str | None = field(default=None, metadata=CHAT_TEMPLATE)
    chat_template_kwargs: dict[str, Any] | None = field(default=None, metadata=CHAT_TEMPLATE_KWARGS)
    max_new_tokens: int = field(default=1024, metadata={"help": "Maximum number of tokens of an answer.", "min": 1})
    max_thought_tokens: int = field(
        default=4096,
        metadata={"help": "Maximum number of tokens of the thoughts before an answer.", "min": 1},
    )
    do_sample: bool | None = field(
        default=None, metadata={"help": "Sample tokens, or take the most likely one (false). Default: the model's."}
    )
    temperature: float | None = field(
        default=None,
        metadata={"help": "Temperature of sampling. Default: the model's.", "above": 0, "requires": ("do_sample",)},
    )
    top_k: int | None = field(
        default=None,
        metadata={
            "help": "Sample from this many most likely tokens; 0: from all. Default: the model's.",
            "min": 0,
            "requires": ("do_sample",),
        },
    )
    top_p: float | None = field(
        default=None,
        metadata={
            "help": "Sample from the most likely tokens whose probabilities add up to this. Default: the model's.",
            "above": 0,
            "max": 1,
            "requires": ("do_sample",),
        },
    )
    repetition_penalty: float | None = field(
        default=None,
        metadata={"help": "Penalty of tokens that occur already; 1 is none. Default: the model's.", "above": 0},
    )
    seed: int = field(default=42, metadata={"help": "Random seed of sampling."})
    trust_remote_code: bool = field(default=False, metadata=REMOTE_CODE)


@dataclass(kw_only=True)
class SearchArguments(OutputArguments):
    """Which settings of a recipe to try, how to choose them, and how long.

    Raises:
        ValueError: as `Arguments`; the time budget is not a duration, or a seed is given twice.
    """

    _argument_group_name = "search"  # of `--help`

    space: str = field(
        metadata={"help": "YAML file with flags of the recipe, and the values that each may take, see docs/search.md."}
    )
    output_dir: str = field(
        default="outputs/search",
        metadata={"help": "Folder of the search; with the same command it goes on where it ended."},
    )
    sampler: str = field(
        default="tpe",
        metadata={
            "help": "How settings are chosen: all of them in order, by chance, or near those that were good (TPE).",
            "choices": ["grid", "random", "tpe"],
        },
    )
    pruner: str = field(
        default="none",
        metadata={
            "help": "How settings that are worse than others after as many evaluations are stopped: successive "
            "halving, Hyperband, or those below the median.",
            "choices": ["none", "halving", "hyperband", "median"],
        },
    )
    metric: str | None = field(
        default=None,
        metadata={
            "help": "Score of the evaluation that decides, e.g. accuracy. Default: --metric_for_best_model of the "
            "recipe, else the loss."
        },
    )
    max_trials: int | None = field(
        default=None,
        metadata={"help": "Maximum number of settings to try. Default: all of a space with an end.", "min": 1},
    )
    time_budget: str | None = field(
        default=None,
        metadata={
            "help": "Time after which the search stops, e.g. 90s, 10m, 2h; what it has not finished is repeated later."
        },
    )
    jobs: int = field(default=1, metadata={"help": "Number of settings that run at the same time.", "min": 1})
    num_folds: int | None = field(
        default=None,
        metadata={"help": "Train each setting on so many folds, every row being held out once.", "min": 2},
    )
    seeds: list[int] | None = field(
        default=None, metadata={"help": "Train each setting with each of these seeds. Default: that of the recipe."}
    )
    seed: int = field(default=42, metadata={"help": "Random seed of the choice of settings."})
    keep_models: bool = field(
        default=False,
        metadata={"help": "Keep the weights of all settings. Default: those of the best one so far."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.time_budget is not None:
            parse_duration(self.time_budget)
        if len({*(self.seeds or [])}) < len(self.seeds or []):
            raise ValueError(f"`--seeds` {' '.join(map(str, self.seeds or []))} has one twice: keep one")
