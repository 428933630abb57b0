"""The smallest model, tokenizer, rows and stock Trainer that the tests share; nothing here is random twice."""

import functools
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from hf_llm.data.packing import PackingCollator, pack
from hf_llm.data.tokenization import tokenize
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.evaluation.perplexity import LanguageModelingMetrics, token_losses

torch.set_num_threads(1)  # on busy cores threads wait for each other, ten times as long as such small models take

TEXTS = [f"Document {i} counts {' '.join(str(n) for n in range(i % 9))}, then it ends." for i in range(40)]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SETTINGS = {
    "llama": SIZES | {"intermediate_size": 32, "num_key_value_heads": 1},
    "qwen3": SIZES | {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8},
    "mistral": SIZES | {"intermediate_size": 32, "num_key_value_heads": 1, "sliding_window": 4096},
    "gemma": SIZES | {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8},
    "gpt2": SIZES | DROPOUT,
    "opt": SIZES | {"ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2, "hidden_dropout": 0.0},
}
ISOLATED = ["llama", "qwen3", "mistral", "gemma", "gpt2"]  # architectures that keep packed documents separate

STOCK = {  # what the recipes set, for a run of a few milliseconds a step
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "batch_eval_metrics": True,
    "include_num_input_tokens_seen": "non_padding",
    "restore_callback_states_from_checkpoint": True,
    "logging_nan_inf_filter": False,
}


def new_model(model_type: str = "llama", attn_implementation: str | None = None, **settings) -> PreTrainedModel:
    """A model whose weights are so large that every token changes every logit after it."""
    torch.manual_seed(0)
    settings = {"vocab_size": 300, "initializer_range": 0.3} | SETTINGS[model_type] | settings
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = AutoConfig.for_model(model_type, **settings | special)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation).eval()


def random_documents(number: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Token ids of documents of 1 to `longest` tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 50, length).tolist() for length in generator.integers(1, longest + 1, number)]


def pieces_of(rows: Dataset) -> list[list[int]]:
    """Token ids of every document piece of packed rows."""
    return [
        piece.tolist()
        for row in rows
        for piece in np.split(np.asarray(row["input_ids"]), np.cumsum(row["lengths"])[:-1])
    ]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest expected magnitude: sums round in proportion to their terms."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def new_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, vocab_size=300)


def packed(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int = 64, packing: bool = True, **options):
    """Documents as `datasets` rows, and what `pack` returns for them."""
    documents = Dataset.from_dict({"text": texts})
    return documents, *pack(tokenize(documents, tokenizer), max_length, packing, **options)


@functools.cache
def packed_once(train: bool, tokenizer: PreTrainedTokenizerBase):
    """`packed` of all texts, or of those that are held out, by each tokenizer once."""
    return packed(TEXTS if train else TEXTS[:7], tokenizer)


def new_trainer(output_dir: Path, tokenizer: PreTrainedTokenizerBase, model=None, args=None, callbacks=(), **settings):
    """A stock Trainer over packed rows, with the arguments that the recipes set."""
    settings = STOCK | {"max_steps": 4} | settings
    _, rows, _ = packed_once(True, tokenizer)
    held_out, held_out_rows, _ = packed_once(False, tokenizer)
    return Trainer(
        model=new_model() if model is None else model,
        args=args or TrainingArguments(str(output_dir), **settings),
        callbacks=list(callbacks),
        data_collator=PackingCollator(tokenizer.pad_token_id),
        train_dataset=rows,
        eval_dataset=held_out_rows,
        processing_class=tokenizer,
        compute_metrics=LanguageModelingMetrics(held_out, held_out_rows, tokenizer),
        preprocess_logits_for_metrics=token_losses,
    )


def save_model(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Save a Llama in bfloat16 with its tokenizer."""
    new_model(vocab_size=len(tokenizer)).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
