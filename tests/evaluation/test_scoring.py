"""Scores of a model on tasks, as the evaluation recipe computes them."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny import new_model, new_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from hf_llm.data.labelling import Labeller
from hf_llm.data.mixtures import SOURCE
from hf_llm.data.prompting import Prompter
from hf_llm.evaluation import scoring
from hf_llm.evaluation.callback import TaskEvaluation
from hf_llm.evaluation.scoring import EncodedTask, encode_task, evaluate_task, rank_choices
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


def test_each_source_of_a_mixture_has_scores_of_its_own():
    """Equal to those of its rows alone, intervals included; a name that would be that of another score is refused."""
    rows = Dataset.from_list([{"instruction": f"Count to {n}.", "output": "1 2 3"[: 2 * n + 1]} for n in range(1, 6)])
    task, model, tokenizer = load_task("generation", max_new_tokens=4), new_model(), new_tokenizer()
    task.prepare(DatasetDict())
    mixed = rows.add_column(SOURCE, ["web", "web", "faq", "faq", "faq"])
    result = evaluate_task(model, tokenizer, task, mixed, show_progress=False)
    alone = evaluate_task(model, tokenizer, task, rows.select([2, 3, 4]), show_progress=False)
    names = [name for name in alone.scores if f"faq_{name}" in result.scores]
    assert {"perplexity", "perplexity_ci95_low", "repetition"} <= {*names}
    assert [result.scores[f"faq_{name}"] for name in names] == pytest.approx([alone.scores[name] for name in names])
    clash = rows.add_column(SOURCE, ["web", "web", "web", "web", "distinct"])
    with pytest.raises(ValueError, match="a source has scores of the name"):
        EncodedTask(None, clash, clash, None, {"2": 0.0, "distinct_2": 0.0})


def test_an_encoder_needs_no_prompter(tmp_path):
    """The labels are those of the head, whatever their order; an encoder without a head has no scores."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {0: "Happy", 1: "sad"}
    config = AutoConfig.for_model("roberta", vocab_size=300, max_position_embeddings=24, id2label=labels, **sizes)
    task, tokenizer = load_task("understanding", labels="sad|happy"), new_tokenizer()
    task.prepare(DatasetDict())
    rows = Dataset.from_list([{"text": "Document 3 counts " * 20, "label": label} for label in ("sad", "happy")])
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    result = evaluate_task(model, tokenizer, task, rows, show_progress=False)
    labeller = Labeller(tokenizer, task, 22, ["happy", "sad"])
    assert result.scores == evaluate_task(model, tokenizer, task, rows, prompter=labeller, show_progress=False).scores
    assert result.scores["accuracy"] == 0.5 and result.report.examples_shortened == 2
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    assert isinstance(
        TaskEvaluation(Trainer(model, args, processing_class=tokenizer), task, rows).encoded.prompter, Labeller
    )
    with pytest.raises(ValueError, match="RobertaForMaskedLM has no classification head: load the model by"):
        evaluate_task(AutoModelForMaskedLM.from_config(config), tokenizer, task, rows)
    with pytest.raises(ValueError, match="has a classification head with 2 labels, for another kind of task"):
        evaluate_task(model, tokenizer, load_task("regression"), rows)
