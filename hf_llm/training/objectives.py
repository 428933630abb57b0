"""What a model is trained to predict: the next token, the text between two others, or hidden tokens.

An objective is a transform of the data or a collator, with the class of model, special tokens, metrics and loss for it.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.trainer_pt_utils import LabelSmoother
from transformers.utils import ModelOutput

from hf_llm.arguments import ModelArguments, PretrainArguments, TextArguments
from hf_llm.data.arrow import token_table
from hf_llm.data.infilling import SENTINELS, InfillingReport, infilling_converter, sentinel_ids, tokenize_for_infilling
from hf_llm.data.locations import find_sources
from hf_llm.data.masking import MaskingCollator, mask_rows
from hf_llm.data.mixed_rows import MixedRows, MixedStream, MixtureReport, join_rows
from hf_llm.data.mixtures import naming_source, read_mixture
from hf_llm.data.packing import PackingCollator, PackingReport, pack
from hf_llm.data.streaming import StreamedRows, first_documents
from hf_llm.data.token_folders import TokenRows, is_token_folder
from hf_llm.data.tokenization import VERIFIED_DOCUMENTS, document_engine, sample_texts, tokenize
from hf_llm.data.vocabulary import MASK
from hf_llm.evaluation.perplexity import (
    LanguageModelingMetrics,
    SourceMetrics,
    TokenMetrics,
    masked_token_losses,
    position_losses,
    token_losses,
)
from hf_llm.models.classifiers import check_kind
from hf_llm.models.inspection import first_position

logger = logging.getLogger(__name__)

AUTO_CLASSES = {"causal": AutoModelForCausalLM, "fim": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
SPECIAL_TOKENS = {"causal": (), "fim": SENTINELS[0], "masked": (MASK,)}  # of a new tokenizer
Reports = dict[str, list[PackingReport | InfillingReport | StreamedRows | MixedRows | MixedStream | MixtureReport]]


def check_objective(
    model_args: ModelArguments,
    data_args: TextArguments,
    run_args: PretrainArguments,
    args: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Refuse settings that do not fit together, before any work.

    Raises:
        ValueError: the model is of another kind, or the tokenizer lacks what the objective needs; the stream has no
            end, or too many readers.
    """
    check_kind(model_args, AUTO_CLASSES[run_args.objective])
    known = ["loss", "perplexity", *(["bits_per_byte"] if run_args.objective != "masked" else [])]
    sources = read_mixture(data_args).sources if data_args.mixture else {"": data_args}
    if data_args.mixture:
        if args.train_sampling_strategy != "random":
            raise ValueError("`--mixture` has an order of its own: leave out `--train_sampling_strategy`")
        known += [f"{name}_{score}" for name in sources for score in known]
    if (metric := args.metric_for_best_model) and metric.removeprefix("eval_") not in known:
        raise ValueError(
            f"`--metric_for_best_model` {metric} is not a score of this objective: give {', '.join(known)}"
        )
    if run_args.objective == "fim":
        if any(is_token_folder(path) for source in sources.values() for path in source.train_file or []):
            raise ValueError("`--objective` fim rearranges text, but `--train_file` is a folder of tokens: name files")
        sentinel_ids(tokenizer)
    if run_args.objective == "masked" and tokenizer.mask_token_id is None:
        raise ValueError(
            f"tokenizer `{tokenizer.name_or_path}` has no mask token, which `--objective` masked needs: give another "
            f"`--tokenizer_name`, or add one by `recipes/train_tokenizer.py --special_tokens '{MASK}'`"
        )
    if data_args.streaming:
        if args.max_steps < 1:
            raise ValueError("`--streaming` has no end: give `--max_steps`")
        if args.train_sampling_strategy != "random":
            raise ValueError("`--streaming` keeps the order of the files: leave out `--train_sampling_strategy`")
        if args.dataloader_num_workers:
            raise ValueError("`--streaming` reads ahead by itself: leave out `--dataloader_num_workers`")


def set_training_arguments(args: TrainingArguments, data_args: TextArguments, run_args: PretrainArguments) -> None:
    """Change `args` to what a stream, a mixture and packed rows with hidden tokens need."""
    if data_args.streaming:
        # Every rank reads its own batches, and a resumed stream starts at its position: there is nothing to skip.
        args.accelerator_config.dispatch_batches = args.accelerator_config.split_batches = False
        args.ignore_data_skip = True
    elif data_args.mixture:
        args.train_sampling_strategy = "sequential"  # `MixedRows` are in the order of training
    if run_args.objective == "masked" and data_args.packing:
        # The mask of packed rows is (B, 1, T, T): to count its ones, as the recipes ask, would count pairs of tokens.
        args.include_num_input_tokens_seen = "all"


def tokenize_and_pack(
    splits: dict,
    tokenizer: PreTrainedTokenizerBase,
    data_args: TextArguments,
    run_args: PretrainArguments,
    args: TrainingArguments,
) -> tuple[Dataset | StreamedRows | MixedRows | MixedStream, Dataset | dict[str, Dataset], Reports]:
    """Tokenize and pack `train` and `validation`.

    Validation texts stay whole, also with `--objective fim`, so that scores can be compared among objectives.

    Returns:
        Rows to train on, rows to evaluate on (of a mixture those of each source), and the reports under the prefixes
        of the results files.

    Raises:
        ValueError: the text of `train` does not fill one row.
    """
    if data_args.mixture:
        return mix_sources(splits, tokenizer, data_args, run_args, args)
    validation, eval_report = pack_texts(splits["validation"], tokenizer, data_args)
    if isinstance(splits["train"], TokenRows):
        return splits["train"], validation, {"train": [splits["train"].report], "eval": [eval_report]}
    if data_args.streaming:
        train = build_stream(splits["train"], tokenizer, data_args, run_args, args)
        return train, validation, {"train": [train], "eval": [eval_report]}
    train, reports = pack_train(splits["train"], tokenizer, data_args, run_args, args.seed)
    return train, validation, {"train": [*reports], "eval": [eval_report]}


def pack_texts(
    documents: Dataset, tokenizer: PreTrainedTokenizerBase, data_args: TextArguments
) -> tuple[Dataset, PackingReport]:
    """Tokenize and pack documents, rows `{"text": str}`; the rows of a token folder are returned as they are."""
    if isinstance(documents, TokenRows):
        return documents, documents.report
    return pack(tokenize(documents, tokenizer), data_args.max_length, data_args.packing, number_documents=True)


def mix_sources(
    splits: dict,
    tokenizer: PreTrainedTokenizerBase,
    data_args: TextArguments,
    run_args: PretrainArguments,
    args: TrainingArguments,
) -> tuple[MixedRows | MixedStream, dict[str, Dataset], Reports]:
    """Tokenize and pack each source of a mixture, and mix the rows to train on; shares count packed rows."""
    mixture, train, validation, reports = read_mixture(data_args), {}, {}, {"train": {}, "eval": {}}
    for name, source_args in mixture.sources.items():
        source = {split: rows[name] for split, rows in splits.items()}
        with naming_source(mixture.path, name):
            packed = tokenize_and_pack(source, tokenizer, source_args, run_args, args)
        train[name], validation[name], source_reports = packed
        for prefix, own in source_reports.items():
            reports[prefix][name] = own
    evaluated: Reports = {"eval": [MixtureReport(reports["eval"])]}
    if data_args.streaming:
        stream = MixedStream(train, mixture.amounts)
        return stream, validation, {"train": [stream], **evaluated}
    rows = MixedRows(train, mixture, args.seed)
    logger.info(rows.description)
    return rows, validation, {"train": [MixtureReport(reports["train"]), rows], **evaluated}


def pack_train(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    data_args: TextArguments,
    run_args: PretrainArguments,
    seed: int,
) -> tuple[Dataset, list[PackingReport | InfillingReport]]:
    """Tokenize and pack the documents to train on; the reports are those of packing and of `--objective fim`."""
    max_length, packing, reports = data_args.max_length, data_args.packing, []
    if run_args.objective == "fim":
        rates = run_args.fim_rate, run_args.fim_spm_rate
        tokens, report = tokenize_for_infilling(documents, tokenizer, max_length, *rates, seed)
        reports.append(report)
    else:
        tokens = tokenize(documents, tokenizer)
    train, packed = pack(tokens, max_length, packing)
    packed.check_fills_row(max_length)
    return train, [packed, *reports]


def build_stream(
    documents: IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    data_args: TextArguments,
    run_args: PretrainArguments,
    args: TrainingArguments,
) -> StreamedRows:
    """Build the rows to train on, which are packed while the text is read.

    Raises:
        ValueError: the data has no text.
    """
    first = first_documents(documents, VERIFIED_DOCUMENTS)
    max_length, fim = data_args.max_length, (run_args.fim_rate, run_args.fim_spm_rate)
    if run_args.objective == "fim":
        _, convert = infilling_converter(tokenizer, first, max_length, *fim, verify_each_call=True)
    else:
        _, encode = document_engine(tokenizer, sample_texts(first), verify_each_call=True)

        def convert(texts: list[str], generator: np.random.Generator, /) -> pa.Table:
            return token_table(*encode(texts))

    facts = {
        "data": Hasher.hash([first["text"][:], documents.num_shards, names_and_sizes(data_args)]),
        "max_train_samples": data_args.max_train_samples,
        "max_length": max_length,
        "packing": data_args.packing,
        "objective": [run_args.objective, *(fim if run_args.objective == "fim" else ())],
    }
    return StreamedRows(documents, convert, max_length, data_args.packing, args.seed, args.train_batch_size, facts)


def names_and_sizes(data_args: TextArguments) -> list[tuple]:
    """Names, sizes in bytes and columns of the streamed files; without folders, which may differ in a resumed run."""
    patterns, extensions = data_args.train_file, data_args.text_extensions
    found = find_sources("--train_file", patterns, extensions, warn=False).files if patterns else []
    sizes = [None if "://" in file.path else file.size for file in found]
    names = [(Path(file.path).name, size) for file, size in zip(found, sizes, strict=True)]
    return [(*name, file.column) if file.column else name for name, file in zip(names, found, strict=True)]


def trainer_options(
    run_args: PretrainArguments,
    data_args: TextArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Dataset | dict[str, Dataset],
    validation: Dataset | dict[str, Dataset],
    args: TrainingArguments,
) -> dict[str, Any]:
    """Keyword arguments of the Trainer for the objective: evaluation rows, collator, metrics and loss.

    Args:
        documents: the validation texts, rows `{"text": str}`; of a mixture those of each source.
        validation: the same texts as packed rows.
    """
    pad_token_id: Any = tokenizer.pad_token_id
    rows = join_rows([*validation.values()]) if isinstance(validation, dict) else validation
    metrics = loss_metrics(run_args, documents, validation, tokenizer)
    by_length = args.train_sampling_strategy == "group_by_length"
    if run_args.objective != "masked":
        return {
            "eval_dataset": rows,
            "data_collator": PackingCollator(pad_token_id, position_ids=data_args.packing),
            "compute_metrics": metrics,
            # By length, the rows are evaluated in another order, in which their documents are not known.
            "preprocess_logits_for_metrics": token_losses if by_length else position_losses,
        }
    collator = masking_collator(run_args, data_args, model, tokenizer, args.seed)
    return {
        "eval_dataset": mask_rows(rows, collator),
        "data_collator": collator,
        "compute_metrics": metrics,
        "preprocess_logits_for_metrics": masked_token_losses,
        "compute_loss_func": LabelSmoother(smoothing) if (smoothing := args.label_smoothing_factor) else masked_loss,
    }


def loss_metrics(
    run_args: PretrainArguments, documents: Any, validation: Any, tokenizer: PreTrainedTokenizerBase
) -> TokenMetrics:
    """The metrics of validation rows; of a mixture those of all its rows and of each source."""
    if isinstance(validation, dict):
        each = {name: loss_metrics(run_args, documents[name], validation[name], tokenizer) for name in validation}
        return SourceMetrics(each, [len(source) for source in validation.values()])
    if run_args.objective == "masked":
        return TokenMetrics()
    return LanguageModelingMetrics(documents, validation, tokenizer)


def masking_collator(
    run_args: PretrainArguments,
    data_args: TextArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> MaskingCollator:
    """Build the collator for `--objective masked`.

    Raises:
        ValueError: packing, and layers with sliding window attention, whose window the mask of documents would replace.
    """
    if data_args.packing and "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        raise ValueError(
            f"{type(model).__name__} has layers with a sliding attention window, and packing would show them "
            "whole documents: train it with `--packing false`"
        )
    pad_token_id: Any = tokenizer.pad_token_id
    mask_token_id: Any = tokenizer.mask_token_id
    return MaskingCollator(
        pad_token_id,
        position_ids=data_args.packing,
        mask_token_id=mask_token_id,
        ordinary_ids=np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids),
        probability=run_args.mlm_probability,
        seed=seed,
        first_position=first_position(model),
        additive_mask=model.config._attn_implementation == "eager",
    )


def masked_loss(outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None):
    """Mean loss of the hidden tokens over all micro-batches and ranks of a step.

    The models' own loss is the mean over one micro-batch. As they accept the number of items of the step, the Trainer
    assumes that they divide by it, and adds up the means of the micro-batches.

    Args:
        labels: (B, T), -100 where no token is hidden.
        num_items_in_batch: hidden tokens of the step; None: those of this batch.
    """
    logits = outputs["logits"]
    return ForMaskedLMLoss(logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch)
