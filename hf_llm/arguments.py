"""Command lines of the recipes: argument dataclasses beside `TrainingArguments`, and the one parser of them all."""

from dataclasses import dataclass, field
from typing import Any


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
    config_overrides: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Config settings of a new model, e.g. hidden_size=256,num_hidden_layers=6; values as in YAML.",
            "mapping": "typed",
        },
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
    task_options: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "Options of the task, e.g. source=en,target=zh,max_new_tokens=64.", "mapping": "text"},
    )
    column_mapping: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Columns of the data and the task's names for them, e.g. body=document,tldr=summary.",
            "mapping": "text",
        },
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
