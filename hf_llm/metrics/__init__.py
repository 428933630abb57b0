"""Metrics of generated text: `evaluate.Metric` classes that need no network, with bootstrap confidence intervals."""

import difflib
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_llm.metrics.base import TaskMetric

LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "ter", "repetition", "mean_absolute_error")
# Values of `--metric`: the module and class of each, the scores that it gives, and its argument for a language.
METRICS = {
    "accuracy": ("classification", "Classification", None),  # with macro-F1 and Matthews correlation
    "exact_match": ("text", "ExactMatch", None),
    "f1": ("question_answering", "QuestionAnswering", "language"),  # of words, with exact match, as in SQuAD
    "rouge": ("rouge", "Rouge", "language"),
    "bleu": ("translation", "Translation", "target_language"),
    "chrf": ("translation", "Translation", "target_language"),
    "repetition": ("text", "FreeText", None),  # and diversity; references are ignored
}


def lower_is_better(score: str) -> bool | None:
    """Whether a lower score is the better one; None if neither end is, as of a share of stereotypes.

    Args:
        score: its name without `eval_`, e.g. `loss`, `web_loss` of a source of a mixture, `translation/ter` of a task.
    """
    name = score.rpartition("/")[2]
    if name.endswith("stereotype_share"):
        return None
    return name in LOWER_IS_BETTER or name.endswith(tuple(f"_{end}" for end in LOWER_IS_BETTER))


def load_metric(name: str, language: str = "en") -> "TaskMetric":
    """Make a metric by its name, e.g. `rouge`.

    Args:
        language: of the texts, for metrics that split them into words.

    Raises:
        ValueError: no such metric; the nearest is named.

    Example:
        >>> load_metric("exact_match").compute(predictions=["7"], references=[["7", "seven"]])["exact_match"]
        1.0
    """
    if name not in METRICS:
        (near,) = difflib.get_close_matches(name, METRICS, 1, cutoff=0)
        raise ValueError(f"`--metric` {name} is not known: there are {', '.join(METRICS)}; the nearest is {near}")
    module, class_name, option = METRICS[name]
    metric_class = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    return metric_class(**({option: language} if option else {}))
