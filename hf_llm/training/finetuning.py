"""What a model is fine-tuned on: completions of prompts, or the labels of texts by a classification head."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import ModelOutput

from hf_llm.arguments import DataArguments, ModelArguments, TaskArguments
from hf_llm.data.examples import ExamplesReport, encode_examples, show_example
from hf_llm.data.labelling import LabelCollator, Labeller, encode_texts
from hf_llm.data.mixed_rows import MixedExamples, MixtureReport, add_figures, join_rows
from hf_llm.data.mixtures import SOURCE, naming_source, read_mixture
from hf_llm.data.packing import PackingCollator, PackingReport, pack
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.prompting import Prompter
from hf_llm.data.tokenization import warn_of_unknown_tokens
from hf_llm.evaluation.perplexity import SourceMetrics, TokenMetrics, token_losses
from hf_llm.models.classifiers import check_classifier, check_prompt_settings, count_positions, labels_to_train
from hf_llm.models.inspection import can_skip_prompts
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)


def check_model(
    classifier: PreTrainedConfig | None,
    model_args: ModelArguments,
    task_args: TaskArguments,
    data_args: DataArguments,
    task: Task,
) -> None:
    """Refuse a task that the model cannot learn, and settings that it does not read, before any data are read.

    Args:
        classifier: the config of a model that labels texts; None for a model that writes.

    Raises:
        ValueError: as described.
    """
    if classifier is None:
        return
    name = f"{model_args.model_name_or_path}"
    check_classifier(name, classifier, task_args.task, task)
    check_prompt_settings(name, task_args, task)
    if task_args.train_on != "assistant":
        raise ValueError(f"`--train_on` has no effect on `{name}`, an encoder, which learns labels: leave it out")
    if data_args.packing:
        logger.info(f"`{name}` is an encoder, which reads each row by itself: nothing is packed")
    if data_args.max_length > (positions := count_positions(classifier)):
        raise ValueError(
            f"`--max_length` {data_args.max_length} is beyond the model's {positions} positions: give `--max_length "
            f"{positions}` or less"
        )


def build_prompter(
    classifier: PreTrainedConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    max_length: int,
    settings: PromptSettings,
) -> Prompter | Labeller:
    """Create what encodes the rows of a task for a model that writes, or for one that labels texts."""
    if classifier is None:
        return Prompter(tokenizer, task, max_length, settings)
    return Labeller(tokenizer, task, max_length, labels_to_train(classifier, task))


def encode_and_pack(
    rows: DatasetDict, prompter: Prompter | Labeller, data_args: DataArguments, seed: int
) -> tuple[Dataset, Dataset | dict[str, Dataset], dict[str, list[Any]]]:
    """Encode the `train` and `validation` rows of a task; pack them, unless the model reads each as a text.

    Args:
        data_args: `packing`, and the mixture if the rows are of several sources.
        seed: draws the rows of sources of which an epoch does not need all.

    Returns:
        Rows to train on, rows to evaluate on (of a mixture those of each source), and the reports under the prefixes
        of the results files.

    Raises:
        ValueError: the task is only evaluated, or there are no rows to train on.
    """
    if not prompter.task.trainable:
        raise ValueError(f"`--task` {type(prompter.task).__name__.lower()} is only evaluated: use recipes/eval.py")
    if "train" not in rows:
        raise ValueError("there is nothing to train on: give `--train_file`, or a dataset with a split `train`")
    if data_args.mixture:
        return encode_sources(rows, prompter, data_args, seed)
    packed, reports = {}, {}
    for split, prefix in (("train", "train"), ("validation", "eval")):
        features, encoded = encode(rows[split], prompter, split)
        packed[split], packing_reports = pack_examples(features, prompter, data_args.packing)
        reports[prefix] = [encoded, *packing_reports]
    return packed["train"], packed["validation"], reports


def encode(rows: Dataset, prompter: Prompter | Labeller, split: str) -> tuple[Dataset, ExamplesReport]:
    """Encode rows of a task for the model, and show the first one that is trained on."""
    if isinstance(prompter, Labeller):
        return encode_texts(rows, prompter, split)
    features, report = encode_examples(rows, prompter, split)
    warn_of_unknown_tokens(features, prompter.tokenizer)
    if split == "train":
        show_example(features, prompter.tokenizer)
    return features, report


def pack_examples(
    features: Dataset, prompter: Prompter | Labeller, packing: bool
) -> tuple[Dataset, list[PackingReport]]:
    """Pack encoded examples, unless the model reads each as a text."""
    if isinstance(prompter, Labeller):
        return features, []
    rows, report = pack(features, prompter.max_length, packing)
    return rows, [report]


def encode_sources(
    rows: DatasetDict, prompter: Prompter | Labeller, data_args: DataArguments, seed: int
) -> tuple[Dataset, dict[str, Dataset], dict[str, list[Any]]]:
    """Encode the rows of each source of a mixture; those to train on are drawn by their shares and packed together."""
    mixture, validation, held_out = read_mixture(data_args), {}, {}
    features, encoded = {}, {}
    for split in ("train", "validation"):
        names = np.array(rows[split][SOURCE])
        for name in mixture.sources:
            with naming_source(mixture.path, name):
                source = rows[split].select(np.flatnonzero(names == name))
                features[split, name], encoded[split, name] = encode(source, prompter, split)
    mixed = MixedExamples({name: features["train", name] for name in mixture.sources}, mixture, seed)
    logger.info(mixed.description)
    train, reports = pack_examples(mixed.examples, prompter, data_args.packing)
    for name in mixture.sources:
        validation[name], packed = pack_examples(features["validation", name], prompter, data_args.packing)
        held_out[name] = [encoded["validation", name], *packed]
    whole = ExamplesReport(**add_figures([asdict(encoded["train", name]) for name in mixture.sources]))
    return train, validation, {"train": [whole, *reports, mixed], "eval": [MixtureReport(held_out)]}


def finetuning_options(
    prompter: Prompter | Labeller,
    model: PreTrainedModel,
    validation: Dataset | dict[str, Dataset],
    packing: bool,
    args: TrainingArguments,
) -> dict[str, Any]:
    """Keyword arguments of the Trainer for fine-tuning: evaluation rows, tokenizer, collator, metrics and loss.

    Raises:
        ValueError: an argument of the Trainer does not go with the rows.
    """
    tokenizer = prompter.tokenizer
    rows = join_rows([*validation.values()]) if isinstance(validation, dict) else validation
    if isinstance(prompter, Labeller):
        if args.label_smoothing_factor and prompter.task.problem_type != "single_label_classification":
            raise ValueError("`--label_smoothing_factor` is for rows with one label each: leave it out")
        loss = LabelLoss(prompter.task.problem_type, args.label_smoothing_factor)
        return {
            "eval_dataset": rows,
            "processing_class": tokenizer,
            "data_collator": LabelCollator(tokenizer),
            "compute_loss_func": loss,
            "compute_metrics": metrics_of_sources(LabelMetrics, validation, args),
            "preprocess_logits_for_metrics": loss.of_rows,
        }
    pad_token_id: Any = tokenizer.pad_token_id
    return {
        "eval_dataset": rows,
        "processing_class": tokenizer,
        "data_collator": PackingCollator(pad_token_id, packing, can_skip_prompts(model, args)),
        "compute_metrics": metrics_of_sources(TokenMetrics, validation, args),
        "preprocess_logits_for_metrics": token_losses,
    }


def metrics_of_sources(
    kind: type[TokenMetrics], validation: Dataset | dict[str, Dataset], args: TrainingArguments
) -> TokenMetrics:
    """Create the metrics of rows to evaluate on, of a mixture with those of each source.

    Raises:
        ValueError: the rows would be evaluated in an order that mixes the sources.
    """
    if not isinstance(validation, dict):
        return kind()
    if args.train_sampling_strategy == "group_by_length":
        raise ValueError(
            "`--train_sampling_strategy` group_by_length would mix the sources of `--mixture`: leave it out"
        )
    return SourceMetrics({name: kind() for name in validation}, [*map(len, validation.values())])


class LabelMetrics(TokenMetrics):
    """Mean loss of the labels, as `TokenMetrics` has it of tokens; a perplexity of labels has no meaning."""

    names = ("loss",)

    def join(self, others):
        return LabelMetrics()

    def scores(self, loss, tokens):
        return {"loss": loss / tokens}


@dataclass
class LabelLoss:
    """Mean loss of the labels over all micro-batches and ranks of a step, see `masked_loss`."""

    problem_type: str | None
    smoothing: float = 0.0

    def __call__(
        self, outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the loss of a micro-batch.

        Args:
            outputs: with `logits`, (B, labels).
            labels: (B, 1) numbers of labels, or gold numbers of a regression; (B, labels) of several labels, 0 or 1.
            num_items_in_batch: labels of the step; None: those of this batch.
        """
        loss = self.of_labels(outputs["logits"], labels).sum()
        return loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def of_labels(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss of each label, of the shape of `labels`."""
        if self.problem_type == "regression":
            return mse_loss(logits.float(), labels.float(), reduction="none")
        if self.problem_type == "multi_label_classification":
            return binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
        options: dict[str, Any] = {"reduction": "none", "label_smoothing": self.smoothing}
        return cross_entropy(logits.float(), labels.view(-1), **options)[:, None]

    def of_rows(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum and count the losses of every row, for `Trainer(preprocess_logits_for_metrics=...)`: (B, 2) float64."""
        losses = self.of_labels(logits, labels).double()
        return torch.stack([losses.sum(1), torch.full_like(losses[:, 0], losses.shape[1])], dim=1)
