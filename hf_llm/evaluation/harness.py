"""Score a model on tasks of lm-evaluation-harness."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_llm.arguments import EvalArguments, TaskArguments
from hf_llm.evaluation.generation import BATCH_SIZE
from hf_llm.files import write_json
from hf_llm.models.loading import load_for_generation


@functools.cache
def load_harness(*names: str) -> tuple:
    """Load tasks of lm-evaluation-harness. Cached, because the harness reads 14,000 YAML files to find its tasks.

    Args:
        names: names of its tasks, or YAML files.

    Returns:
        The tasks, and the harness's task manager.

    Raises:
        ValueError: the harness is not installed, or does not know a task.
    """
    if not importlib.util.find_spec("lm_eval"):
        raise ValueError("`--harness` needs lm-evaluation-harness: `pip install -e '.[harness]'`")
    from lm_eval.config.evaluate_config import EvaluatorConfig

    config = EvaluatorConfig(tasks=list(names))
    try:
        manager = config.process_tasks()
    except (ValueError, OSError) as error:
        raise ValueError(f"`--harness` {' '.join(names)}: {error}: give names of its tasks, or YAML files") from None
    return config.tasks, manager


def run_harness(name: str, args: EvalArguments, task_args: TaskArguments, max_samples: int | None) -> dict[str, float]:
    """Load a model and score it by lm-evaluation-harness.

    Args:
        name: a folder, a Hub id, a .gguf file or the folder of a PEFT adapter.
        max_samples: rows of each task; None for all.

    Returns:
        The scores, named `<task>_<metric>`.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tasks, manager = load_harness(*args.harness)
    model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
    batch_size = args.batch_size or BATCH_SIZE
    results: Any = simple_evaluate(  # a dict: each rank scores for itself
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),  # pyright: ignore[reportCallIssue]  # decorated
        tasks=tasks,
        task_manager=manager,
        num_fewshot=task_args.num_fewshot or None,
        limit=max_samples,
        apply_chat_template=task_args.prompt_style == "chat",
    )
    return {
        f"{task}_{name.removesuffix(',none').replace(',', '_')}": value
        for task, scores in results["results"].items()
        for name, value in scores.items()
        if isinstance(value, int | float)
    }


def save_harness(args: EvalArguments, results: list[dict[str, float]]) -> dict[str, float]:
    """Write the scores of the harness to `harness_results.json` in `--output_dir`, on rank 0.

    Args:
        results: the scores of the model, and of the baseline if there is one.

    Returns:
        All scores, those of the baseline named `baseline_<task>_<metric>`.
    """
    figures = {}
    for prefix, scores in zip(("", "baseline_"), results, strict=False):
        figures |= {f"{prefix}{name}": value for name, value in scores.items()}
    if PartialState().is_main_process:
        write_json(Path(f"{args.output_dir}/harness_results.json"), figures)
    return figures
