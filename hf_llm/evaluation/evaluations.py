"""The tasks of the evaluation recipe, loaded once and scored on one model after another."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, set_seed

from hf_llm.arguments import DataArguments, EvalArguments, TaskArguments
from hf_llm.data.labelling import Labeller
from hf_llm.data.prompting import Prompter, set_chat_template, task_settings
from hf_llm.data.rows import load_rows
from hf_llm.evaluation.generation import BATCH_SIZE
from hf_llm.evaluation.harness import load_harness
from hf_llm.evaluation.sampling import Sampling
from hf_llm.evaluation.scoring import EncodedTask, TaskResult, answer_and_score, encode_task
from hf_llm.mappings import format_mapping
from hf_llm.models.classifiers import (
    check_classifier,
    check_prompt_settings,
    count_positions,
    find_classifier,
    has_head,
    labels_of_head,
)
from hf_llm.models.inspection import num_positions
from hf_llm.models.loading import load_for_generation, load_to_evaluate, load_tokenizer, model_arguments
from hf_llm.tasks import Task, load_task

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """A task and its rows, to be scored on one model after another.

    Args:
        rows: as `load_rows` returns them; `train` is not used.
        args: batch size, seed and precision for this task.
    """

    name: str
    task: Task
    rows: DatasetDict
    task_args: TaskArguments
    max_length: int
    args: EvalArguments

    def sampling(self) -> Sampling | None:
        """How answers are sampled, with `--num_samples`."""
        args = self.args
        return (
            Sampling(args.num_samples, args.temperature, args.top_p, args.top_k, args.seed)
            if args.num_samples
            else None
        )

    def settings(self) -> dict[str, Any]:
        """What the scores depend on besides model and rows, for the results file."""
        names = ("task", "task_options", "prompt_style", "chat_template", "system_prompt", "num_fewshot")
        settings = {name: getattr(self.task_args, name) for name in names}
        fields = {field.name: field.default for field in dataclasses.fields(self.task)}
        options = {name: getattr(self.task, name) for name in fields if getattr(self.task, name) != fields[name]}
        settings["task_options"] = format_mapping(options) or None  # in effect, also those that the data decide
        settings["chat_template"] = settings["chat_template"] and Path(settings["chat_template"]).name
        settings["num_fewshot"] = settings["num_fewshot"] or 0
        settings |= vars(sampling) if (sampling := self.sampling()) else {}
        return settings | {"max_length": self.max_length, "seed": self.args.seed, "dtype": self.args.dtype}

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, positions: float, labels: list[str] | None = None
    ) -> EncodedTask:
        """Encode the prompts with a model's tokenizer.

        Args:
            positions: number of positions of the model, or infinity.
            labels: those of a model that labels texts, in the order of its head; None for a model that writes.
        """
        max_length = int(min(self.max_length, positions))
        try:
            if labels is not None:
                prompter = Labeller(tokenizer, self.task, max_length, labels)
            else:
                set_chat_template(tokenizer, self.task_args)
                settings = task_settings(self.task_args, self.task, self.rows)
                prompter = Prompter(tokenizer, self.task, max_length, settings)
            return encode_task(prompter, self.rows["validation"])
        except ValueError as error:  # says which of several tasks
            raise ValueError(f"{self.name}: {error}") from error


def check_evaluation(tasks: dict[str, tuple], args: EvalArguments) -> None:
    """Check what would otherwise fail after hours: the harness's tasks, and the tokenizer of each model.

    Raises:
        ValueError: there is nothing to score, a harness task is unknown, or a tokenizer cannot be loaded.
    """
    if not (tasks or args.harness):
        raise ValueError("nothing to score: give `--task` or `--harness`")
    if args.num_samples and args.harness:
        raise ValueError("`--num_samples` has no effect on tasks of `--harness`: leave one of them out")
    if args.harness:
        load_harness(*args.harness)
    classifiers = {}
    for name in filter(None, (args.model_name_or_path, args.baseline)):
        load_tokenizer(model_arguments(name, args.trust_remote_code))
        classifiers[name] = find_classifier(name, args.trust_remote_code)
    for name, classifier in classifiers.items():
        if classifier is None:
            continue
        for flag in ("harness", "num_samples"):
            if getattr(args, flag):
                raise ValueError(f"`--{flag}` needs models that write, and `{name}` is an encoder: leave it out")
        for task_args, *_ in tasks.values():
            options = task_args.task_options or {}
            task = load_task(task_args.task, **options)
            check_classifier(name, classifier, task_args.task, task)
            if all(classifiers.values()):  # the other model may read them
                check_prompt_settings(name, task_args, task)


def load_evaluations(tasks: dict[str, tuple[TaskArguments, DataArguments, EvalArguments]]) -> list[Evaluation]:
    """Load the rows of each task.

    Args:
        tasks: the name of each task, and its arguments.

    Raises:
        ValueError: a task or its data cannot be loaded.
    """
    evaluations = []
    for name, (task_args, data_args, args) in tasks.items():
        task = load_task(task_args.task, **task_args.task_options or {})
        rows = load_rows(data_args, task_args, task, args.seed)
        if args.num_samples and task.choices(rows["validation"][0]) is not None:
            remedy = "leave it out" + ", or give `--task_options scoring=generated`" * (
                task_args.task == "understanding"
            )
            raise ValueError(f"`--num_samples` has no effect on {name}, whose choices are ranked: {remedy}")
        evaluations.append(Evaluation(name, task, rows, task_args, data_args.max_length, args))
    return evaluations


def score_model(name: str, evaluations: list[Evaluation], args: EvalArguments) -> list[TaskResult]:
    """Load a model and score it on each task; all tasks are encoded first, so that invalid rows are found early.

    Returns:
        One result per evaluation, on every rank.
    """
    if (classifier := find_classifier(name, args.trust_remote_code)) is not None:
        return score_classifier(name, classifier, evaluations, args)
    model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
    tasks = [evaluation.encode(tokenizer, num_positions(model)) for evaluation in evaluations]
    return [
        answer_and_score(model, encoded, evaluation.sampling(), batch_size=evaluation.args.batch_size or BATCH_SIZE)
        for encoded, evaluation in zip(tasks, evaluations, strict=True)
    ]


def score_classifier(
    name: str, classifier: PreTrainedConfig, evaluations: list[Evaluation], args: EvalArguments
) -> list[TaskResult]:
    """Score a model that labels texts as `score_model` does; without a classification head, with a random one.

    Args:
        classifier: what `find_classifier` returns.

    Raises:
        ValueError: the head is of another kind than the task.
    """
    tokenizer = load_tokenizer(model_arguments(name, args.trust_remote_code))
    tasks, results = [], []
    for evaluation in evaluations:
        if has_head(classifier):
            labels = labels_of_head(classifier, evaluation.task, f"{evaluation.name}: `{name}`")
        else:
            labels = evaluation.task.label_names
            logger.warning(f"`{name}` has no classification head: its scores are those of a random one, by chance")
        tasks.append(evaluation.encode(tokenizer, count_positions(classifier), labels))
    for evaluation, encoded in zip(evaluations, tasks, strict=True):
        set_seed(args.seed)
        model, _ = load_to_evaluate(name, args.trust_remote_code, args.dtype, encoded.prompter.head())
        results.append(answer_and_score(model, encoded, batch_size=evaluation.args.batch_size or BATCH_SIZE))
    return results
