"""What a model is fine-tuned on: completions of prompts, or the labels of texts by a classification head."""

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import ModelOutput

from hf_llm.arguments import DataArguments, ModelArguments, TaskArguments
from hf_llm.data.examples import ExamplesReport, encode_examples, show_example
from hf_llm.data.labelling import LabelCollator, Labeller, encode_texts
from hf_llm.data.packing import PackingCollator, PackingReport, pack
from hf_llm.data.prompting import Prompter, new_prompter
from hf_llm.evaluation.perplexity import TokenMetrics, token_losses
from hf_llm.models.classifiers import check_classifier, count_positions, labels_to_train
from hf_llm.models.inspection import can_skip_prompts
from hf_llm.tasks import Task


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
    for setting in ("prompt_style", "chat_template", "chat_template_kwargs", "num_fewshot"):
        if getattr(task_args, setting):
            raise ValueError(
                f"`--{setting}` has no effect on `{name}`, an encoder, which reads the texts alone: leave it out"
            )
    if data_args.max_length > (positions := count_positions(classifier)):
        raise ValueError(
            f"`--max_length` {data_args.max_length} is beyond the model's {positions} positions: give `--max_length "
            f"{positions}` or less"
        )


def build_prompter(
    classifier: PreTrainedConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: DatasetDict,
    task_args: TaskArguments,
    max_length: int,
    seed: int,
) -> tuple[Prompter | Labeller, DatasetDict]:
    """Create what encodes the rows for the model, and return it with the rows that are not few-shot examples."""
    if classifier is None:
        return new_prompter(tokenizer, task, rows, task_args, max_length, seed)
    return Labeller(tokenizer, task, max_length, labels_to_train(classifier, task)), rows


def encode_and_pack(
    rows: DatasetDict, prompter: Prompter | Labeller, packing: bool
) -> tuple[Dataset, Dataset, dict[str, list[PackingReport | ExamplesReport]]]:
    """Encode the `train` and `validation` rows of a task; pack them, unless the model reads each as a text.

    Returns:
        Rows to train on, rows to evaluate on, and the reports under the prefixes of the results files.

    Raises:
        ValueError: the task is only evaluated, or there are no rows to train on.
    """
    if not prompter.task.trainable:
        raise ValueError(f"`--task` {type(prompter.task).__name__.lower()} is only evaluated: use recipes/eval.py")
    if "train" not in rows:
        raise ValueError("there is nothing to train on: give `--train_file`, or a dataset with a split `train`")
    packed, reports = {}, {}
    for split, prefix in (("train", "train"), ("validation", "eval")):
        if isinstance(prompter, Labeller):
            packed[split], encoded = encode_texts(rows[split], prompter, split)
            reports[prefix] = [encoded]
            continue
        features, encoded = encode_examples(rows[split], prompter, split)
        if split == "train":
            show_example(features, prompter.tokenizer)
        packed[split], report = pack(features, prompter.max_length, packing)
        reports[prefix] = [encoded, report]
    return packed["train"], packed["validation"], reports


def finetuning_options(
    prompter: Prompter | Labeller, model: PreTrainedModel, packing: bool, args: TrainingArguments
) -> dict[str, Any]:
    """Keyword arguments of the Trainer for fine-tuning: tokenizer, collator, metrics and loss."""
    tokenizer = prompter.tokenizer
    if isinstance(prompter, Labeller):
        loss = LabelLoss(prompter.task.problem_type, args.label_smoothing_factor)
        return {"processing_class": tokenizer, "data_collator": LabelCollator(tokenizer), "compute_loss_func": loss}
    pad_token_id: Any = tokenizer.pad_token_id
    return {
        "processing_class": tokenizer,
        "data_collator": PackingCollator(pad_token_id, packing, can_skip_prompts(model, args)),
        "compute_metrics": TokenMetrics(),
        "preprocess_logits_for_metrics": token_losses,
    }


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
            labels: (B, 1) numbers of labels.
            num_items_in_batch: labels of the step; None: those of this batch.
        """
        logits = outputs["logits"].float()
        loss = cross_entropy(logits, labels.view(-1), reduction="sum", label_smoothing=self.smoothing)
        return loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
