"""Score a model on tasks of lm-evaluation-harness."""

import functools
import importlib.util
import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_llm.arguments import EvalArguments, TaskArguments
from hf_llm.data.prompting import set_chat_template
from hf_llm.evaluation.generation import BATCH_SIZE
from hf_llm.evaluation.thoughts import THOUGHT_END
from hf_llm.files import write_json
from hf_llm.mappings import format_mapping
from hf_llm.models.loading import load_for_generation

logger = logging.getLogger(__name__)


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


def run_harness(
    name: str, args: EvalArguments, task_args: TaskArguments, max_samples: int | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Load a model and score it by lm-evaluation-harness.

    Args:
        name: a folder, a Hub id, a .gguf file or the folder of a PEFT adapter.
        max_samples: rows of each task; None for all.

    Returns:
        The scores, named `<task>_<metric>`, and the settings that they depend on; both are empty on other ranks than
        the first.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tasks, manager = load_harness(*args.harness)
    model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
    batch_size, chat, shots = args.batch_size or BATCH_SIZE, task_args.prompt_style == "chat", task_args.num_fewshot
    template_kwargs = (task_args.chat_template_kwargs or {}) if chat else {}
    if task_args.system_prompt is not None and not chat:
        raise ValueError("`--system_prompt` has no effect on plain prompts: give `--prompt_style chat` too")
    set_chat_template(tokenizer, task_args)
    thought_end = THOUGHT_END.search(str(tokenizer.chat_template)) if chat else None
    language_model: Any = HFLM  # its decorator hides the arguments
    options = {"batch_size": batch_size, "chat_template_args": template_kwargs}
    options["think_end_token"] = thought_end and thought_end[0]
    seeds: Any = {f"{kind}random_seed": args.seed for kind in ("", "numpy_", "torch_", "fewshot_")}
    try:
        results: Any = simple_evaluate(
            language_model(pretrained=model, tokenizer=tokenizer, **options),
            **{"tasks": tasks, "task_manager": manager, "num_fewshot": shots, "limit": max_samples},
            **{"apply_chat_template": chat, "system_instruction": task_args.system_prompt, **seeds},
        )
    except ConnectionError as error:
        raise ValueError(
            f"`--harness` {' '.join(args.harness)}: {error}: run it once with a network, "
            "or give YAML files of tasks with local data"
        ) from None
    if results is None:
        return {}, {}
    for task, number in results["n-shot"].items():
        if shots not in (None, number):
            logger.warning(f"`--num_fewshot` {shots}: the harness has {number} for {task}, whose file fixes it")
    settings = {
        "prompt_style": "chat" if chat else "plain",
        "chat_template_kwargs": format_mapping(template_kwargs),
        "system_prompt": task_args.system_prompt,
        "seed": args.seed,
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch_size": batch_size,
    }
    scores, settings_of_tasks = read_results(results)
    return scores, settings_of_tasks | settings


def read_results(results: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores, and settings of the tasks, from what the harness's `simple_evaluate` returns."""
    scores: dict[str, float] = {
        f"{task}_{name.removesuffix(',none').replace(',', '_')}": value
        for task, task_scores in results["results"].items()
        for name, value in task_scores.items()
        if isinstance(value, int | float)
    }
    return scores, {
        "num_fewshot": results["n-shot"],
        "task_versions": results["versions"],
        "rows": {task: count["effective"] for task, count in results["n-samples"].items()},
        "lm_eval": results["lm_eval_version"],
        "transformers": results["transformers_version"],
    }


def save_harness(args: EvalArguments, results: list[tuple[dict[str, float], dict[str, Any]]]) -> dict[str, float]:
    """Write the scores of the harness, models and settings to `harness_results.json` in `--output_dir`, on rank 0.

    Args:
        results: what `run_harness` returns for the model, and for the baseline if there is one.

    Returns:
        All scores, those of the baseline named `baseline_<task>_<metric>`.
    """
    figures = {}
    for prefix, (scores, _) in zip(("", "baseline_"), results, strict=False):
        figures |= {f"{prefix}{name}": value for name, value in scores.items()}
    models = {"model": args.model_name_or_path, "baseline": args.baseline}
    names = {role: Path(path).name for role, path in models.items() if path}  # without the folders of this machine
    if PartialState().is_main_process:
        write_json(Path(f"{args.output_dir}/harness_results.json"), figures | names | {"settings": results[0][1]})
    return figures
