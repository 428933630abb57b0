"""Scores of a model on tasks, as the evaluation recipe computes them."""

import pytest
from datasets import Dataset, DatasetDict
from tiny import new_model, new_tokenizer

from hf_llm.arguments import AdapterArguments, DataArguments, EvalArguments, TaskArguments
from hf_llm.data.prompting import Prompter
from hf_llm.evaluation import scoring
from hf_llm.evaluation.scoring import check_evaluation, encode_task, load_evaluations, rank_choices, score_model
from hf_llm.models.adapters import add_adapter
from hf_llm.tasks import load_task


def test_an_adapter_without_a_tokenizer_is_scored_with_that_of_its_base(tmp_path):
    """`PeftModel.save_pretrained` saves no tokenizer; such a folder can be a baseline too."""
    base, folder = tmp_path / "base", str(tmp_path / "adapter")
    new_model(max_position_embeddings=256).save_pretrained(base)
    new_tokenizer().save_pretrained(base)
    model = new_model(max_position_embeddings=256)
    model.name_or_path = str(base)
    add_adapter(model, AdapterArguments(lora_r=2)).save_pretrained(folder)
    args = EvalArguments(model_name_or_path=folder, baseline=folder, dtype="float32")
    tasks = {"bias": (TaskArguments(task="bias"), DataArguments(), args)}
    check_evaluation(tasks, args)
    evaluations = load_evaluations(tasks)
    (result,) = score_model(folder, evaluations, args)
    assert len(result.predictions) == len(load_task("bias").sample()["validation"])


def test_nothing_to_score_is_refused():
    """Neither a task nor a task of the harness is named."""
    with pytest.raises(ValueError, match="nothing to score: give `--task` or `--harness`"):
        check_evaluation({}, EvalArguments(model_name_or_path="m"))


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
