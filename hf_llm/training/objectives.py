"""What a model is trained to predict: the next token, what stands between two texts, or hidden tokens.

Each is a transform of the data or a collator, and what goes with it: the class of model, tokens, metrics.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.fingerprint import Hasher
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.utils import ModelOutput

from hf_llm.arguments import PretrainArguments, TextArguments
from hf_llm.data.arrow import token_table
from hf_llm.data.infilling import SENTINELS, InfillingReport, infill, infilling, sentinels
from hf_llm.data.locations import find_sources
from hf_llm.data.masking import MaskingCollator, mask_rows
from hf_llm.data.packing import PackingCollator, PackingReport, pack
from hf_llm.data.prompting import ExamplesReport, Prompter, encode_examples, show_example
from hf_llm.data.streaming import StreamedRows, head
from hf_llm.data.tokenization import PROOF_DOCUMENTS, document_engine, sample_texts, tokenize
from hf_llm.data.vocabulary import MASK
from hf_llm.evaluation.perplexity import LanguageModelingMetrics, TokenMetrics, masked_token_losses, token_losses
from hf_llm.models.loading import first_position

AUTO_CLASSES = {"causal": AutoModelForCausalLM, "fim": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
SPECIAL_TOKENS = {"causal": (), "fim": SENTINELS[0], "masked": (MASK,)}  # of a new tokenizer
Reports = dict[str, list[PackingReport | InfillingReport | StreamedRows]]


def check_objective(
    data_args: TextArguments, run_args: PretrainArguments, args: TrainingArguments, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Tell what does not fit together before there is any work, and set what a stream needs of the Trainer.

    Raises:
        ValueError: the tokenizer lacks what the objective needs; the stream has no end, or too many readers.
    """
    if run_args.objective == "fim":
        sentinels(tokenizer)
    if run_args.objective == "masked" and tokenizer.mask_token_id is None:
        raise ValueError(
            f"tokenizer `{tokenizer.name_or_path}` has no mask token, which `--objective` masked needs: give another "
            f"`--tokenizer_name`, or add one by `recipes/train_tokenizer.py --special_tokens '{MASK}'`"
        )
    if data_args.streaming:
        if args.max_steps < 1:
            raise ValueError("`--streaming` has no end: give `--max_steps`")
        if args.dataloader_num_workers:
            raise ValueError("`--streaming` reads ahead by itself: leave out `--dataloader_num_workers`")
        # Every rank reads for itself, batches of its own, and a resumed run begins where it stopped.
        args.accelerator_config.dispatch_batches = args.accelerator_config.split_batches = False
        args.ignore_data_skip = True


def tokenize_and_pack(
    splits: dict[str, Dataset | IterableDataset],
    tokenizer: PreTrainedTokenizerBase,
    data_args: TextArguments,
    run_args: PretrainArguments,
    args: TrainingArguments,
) -> tuple[Dataset | StreamedRows, Dataset, Reports]:
    """Rows of `train` and `validation`, and what was done to each, under the prefixes of the results files.

    Validation has whole texts, also where the training fills in the middle: its scores compare.

    Raises:
        ValueError: the text of `train` does not fill one row.
    """
    validation, held_out = pack(tokenize(splits["validation"], tokenizer), data_args.max_length, data_args.packing)
    if data_args.streaming:
        train = stream(splits["train"], tokenizer, data_args, run_args, args)
        return train, validation, {"train": [train], "eval": [held_out]}
    train, reports = pack_train(splits["train"], tokenizer, data_args, run_args, args.seed)
    return train, validation, {"train": reports, "eval": [held_out]}


def pack_train(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    data_args: TextArguments,
    run_args: PretrainArguments,
    seed: int,
) -> tuple[Dataset, list[PackingReport | InfillingReport]]:
    """All rows to train on, and what was done to them."""
    max_length, packing, reports = data_args.max_length, data_args.packing, []
    if run_args.objective == "fim":
        tokens, laid_out = infill(documents, tokenizer, max_length, run_args.fim_rate, run_args.fim_spm_rate, seed)
        reports.append(laid_out)
    else:
        tokens = tokenize(documents, tokenizer)
    train, packed = pack(tokens, max_length, packing)
    if packed.tokens_in < max_length:
        raise ValueError(
            f"`train` has {packed.tokens_in} tokens, fewer than one row of `--max_length` {max_length}: give more text "
            "or a smaller --max_length"
        )
    return train, [packed, *reports]


def stream(
    documents: IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    data_args: TextArguments,
    run_args: PretrainArguments,
    args: TrainingArguments,
) -> StreamedRows:
    """Rows to train on that are packed while they are read.

    Raises:
        ValueError: the data have no text.
    """
    first = head(documents, PROOF_DOCUMENTS)
    max_length, fim = data_args.max_length, (run_args.fim_rate, run_args.fim_spm_rate)
    if run_args.objective == "fim":
        convert = infilling(tokenizer, first, max_length, *fim, verify_each_call=True)[1]
    else:
        _, encode = document_engine(tokenizer, sample_texts(first), verify_each_call=True)

        def convert(texts: list[str], draw: np.random.Generator) -> pa.Table:
            return token_table(*encode(texts))

    facts = {
        "data": Hasher.hash([first["text"][:], documents.num_shards, names_and_sizes(data_args.train_file)]),
        "max_train_samples": data_args.max_train_samples,
        "max_length": max_length,
        "packing": data_args.packing,
        "objective": [run_args.objective, *(fim if run_args.objective == "fim" else ())],
    }
    return StreamedRows(documents, convert, max_length, data_args.packing, args.seed, args.train_batch_size, facts)


def names_and_sizes(patterns: list[str] | None) -> list[tuple[str, int | None]]:
    """Of the files that are streamed: without their folders, which may have another name when a run goes on."""
    paths = find_sources("--train_file", patterns) if patterns else []
    return [(Path(path).name, None if "://" in path else Path(path).stat().st_size) for path in paths]


def trainer_options(
    run_args: PretrainArguments,
    data_args: TextArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Dataset,
    validation: Dataset,
    args: TrainingArguments,
) -> dict[str, Any]:
    """Evaluation rows, collator, metrics and loss of the objective, as the Trainer takes them.

    Args:
        documents: the text of the evaluation, rows `{"text": str}`.
        validation: what `pack` made of it.
    """
    if run_args.objective != "masked":
        return {
            "eval_dataset": validation,
            "data_collator": PackingCollator(tokenizer.pad_token_id, position_ids=data_args.packing),
            "compute_metrics": LanguageModelingMetrics(documents, validation, tokenizer),
            "preprocess_logits_for_metrics": token_losses,
        }
    collator = masking_collator(run_args, data_args, model, tokenizer, args.seed)
    if data_args.packing:  # the Trainer would take the mask of pairs of tokens for one of tokens, and count it
        args.include_num_input_tokens_seen = "all"
    return {
        "eval_dataset": mask_rows(validation, collator),
        "data_collator": collator,
        "compute_metrics": TokenMetrics(),
        "preprocess_logits_for_metrics": masked_token_losses,
        "compute_loss_func": masked_loss,
    }


def masking_collator(
    run_args: PretrainArguments,
    data_args: TextArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> MaskingCollator:
    """The collator of a masked model.

    Raises:
        ValueError: the model's layers see less than a row, which packing would undo.
    """
    if data_args.packing and "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        raise ValueError(
            f"{type(model).__name__} has layers that see a window alone, and packing would show them whole documents: "
            "train it with `--packing false`"
        )
    return MaskingCollator(
        tokenizer.pad_token_id,
        position_ids=data_args.packing,
        mask_token_id=tokenizer.mask_token_id,
        ordinary=np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids),
        probability=run_args.mlm_probability,
        seed=seed,
        first_position=first_position(model),
        additive=model.config._attn_implementation == "eager",
    )


def masked_loss(outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None):
    """Mean loss of the hidden tokens over all micro-batches and ranks of a step.

    The models' own is the mean of a micro-batch, though they take the number of items: the Trainer would not divide it.
    """
    logits = outputs["logits"]
    return ForMaskedLMLoss(logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch)


def encode_and_pack(
    rows: DatasetDict, prompter: Prompter, packing: bool
) -> tuple[Dataset, Dataset, dict[str, list[PackingReport | ExamplesReport]]]:
    """Rows of a task's `train` and `validation`, and what was done to each, under the prefixes of the results files."""
    if not prompter.task.trainable:
        raise ValueError(f"`--task` {type(prompter.task).__name__.lower()} is only evaluated: use recipes/eval.py")
    if "train" not in rows:
        raise ValueError("there is nothing to train on: give `--train_file`, or a data set with a part `train`")
    packed, reports = {}, {}
    for part, prefix in (("train", "train"), ("validation", "eval")):
        features, encoded = encode_examples(rows[part], prompter, part)
        if part == "train":
            show_example(features, prompter.tokenizer)
        packed[part], report = pack(features, prompter.max_length, packing)
        reports[prefix] = [encoded, report]
    return packed["train"], packed["validation"], reports
