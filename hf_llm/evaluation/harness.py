"""The tasks of lm-evaluation-harness on a loaded model."""

import importlib.util

from hf_llm.arguments import EvalArguments, TaskArguments
from hf_llm.evaluation.generation import BATCH_SIZE
from hf_llm.models.loading import load_for_generation


def load_harness(names: list[str]) -> tuple:
    """The tasks of lm-evaluation-harness, names or YAML files, and its manager.

    Raises:
        ValueError: it is not installed, or does not know a task.
    """
    if not importlib.util.find_spec("lm_eval"):
        raise ValueError("`--harness` needs lm-evaluation-harness: `pip install -e '.[harness]'`")
    from lm_eval.config.evaluate_config import EvaluatorConfig

    config = EvaluatorConfig(tasks=list(names))
    try:
        manager = config.process_tasks()
    except (ValueError, OSError) as error:
        raise ValueError(f"`--harness` {' '.join(names)}: {error}: give names that it knows, or YAML files") from None
    return config.tasks, manager


def run_harness(name: str, args: EvalArguments, task_args: TaskArguments, max_samples: int | None) -> dict[str, float]:
    """Load a model and hand it to lm-evaluation-harness; what that measures, as `<task>_<metric>`."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tasks, manager = load_harness(args.harness)
    model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
    measured = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=args.batch_size or BATCH_SIZE),
        tasks=tasks,
        task_manager=manager,
        num_fewshot=task_args.num_fewshot or None,
        limit=max_samples,
        apply_chat_template=task_args.prompt_style == "chat",
    )
    return {
        f"{task}_{name.removesuffix(',none').replace(',', '_')}": value
        for task, scores in measured["results"].items()
        for name, value in scores.items()
        if isinstance(value, int | float)
    }
