"""Scores of a model on tasks, as the evaluation recipe computes them."""

from datasets import Dataset, DatasetDict
from tiny import new_model, new_tokenizer

from hf_llm.data.prompting import Prompter
from hf_llm.evaluation import scoring
from hf_llm.evaluation.scoring import encode_task, rank_choices
from hf_llm.tasks import load_task


def test_choices_are_ranked_by_the_sum_or_per_token(monkeypatch):
    """The first of equally likely choices is chosen; per token the longer one may be the most likely."""
    task = load_task("understanding", labels="good|not good at all")
    task.prepare(DatasetDict())
    model, prompter = new_model(), Prompter(new_tokenizer(), task, 256)
    encoded = encode_task(prompter, Dataset.from_list([{"text": "x", "label": "good"}]))
    for log_likelihoods, choice in (([-2.0, -2.0], "good"), ([-3.0, -2.0], "not good at all"), ([-2.0, -2.1], "good")):
        monkeypatch.setattr(scoring, "log_likelihoods", lambda *_, scores=log_likelihoods, **__: [scores])
        assert rank_choices(model, encoded) == ([choice], {})
    monkeypatch.setattr(task, "scoring", "normalized")
    assert rank_choices(model, encoded) == (["not good at all"], {})
