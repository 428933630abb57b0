"""Scores of a task at every evaluation of a Trainer: the stock one and TRL's."""

import pytest
import torch
import trl
from datasets import Dataset
from recipe_runs import read_json_lines
from safetensors.torch import load_file
from tiny import new_model
from transformers import DataCollatorForSeq2Seq, EarlyStoppingCallback, Trainer, TrainingArguments

from hf_llm.data.examples import encode_examples
from hf_llm.data.prompting import Prompter
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.evaluation.callback import TaskEvaluation
from hf_llm.evaluation.perplexity import SourceMetrics, TokenMetrics
from hf_llm.evaluation.scoring import evaluate_task
from hf_llm.metrics.translation import Translation
from hf_llm.tasks import load_task

TASK = load_task("translation")
ROWS = TASK.sample()["validation"].select(range(7))


@pytest.fixture(scope="module")
def numbers():
    """A model with enough positions for a prompt of the task, and its tokenizer."""
    texts = [text for row in TASK.sample()["train"] for text in row["translation"].values()]
    return new_model(max_position_embeddings=256, vocab_size=400), train_tokenizer(texts, vocab_size=400)


def scores_in(metrics):
    """The scores of the task's metric among the Trainer's metrics."""
    return {name: value for name, value in metrics.items() if name.startswith(("eval_bleu", "eval_chrf"))}


def stock_trainer(folder, model, tokenizer, **settings):
    args = TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **settings)
    features, _ = encode_examples(TASK.sample()["train"].select(range(8)), Prompter(tokenizer, TASK, 256))
    collator = DataCollatorForSeq2Seq(tokenizer)
    return Trainer(model, args, collator, features, features, processing_class=tokenizer)


def test_a_tasks_scores_join_the_trainers_and_are_logged(numbers, tmp_path):
    """`Trainer.evaluate` returns them with their intervals, and every tracker gets them by the log."""
    trainer = stock_trainer(tmp_path, *numbers)
    callback = TaskEvaluation(trainer, TASK, ROWS)
    trainer.add_callback(callback)
    metrics = trainer.evaluate()
    scores = scores_in(metrics)
    assert set(scores) == {f"eval_{name}{end}" for name in ("bleu", "chrf") for end in ("", "_ci95_low", "_ci95_high")}
    assert scores["eval_chrf"] == callback.result.scores["chrf"] and "eval_loss" in metrics
    assert scores_in(trainer.state.log_history[-1]) == scores


def test_the_callback_gives_the_scores_of_evaluate_task(numbers, tmp_path):
    """`evaluate_task` on the same rows gives the same scores and predictions."""
    model, tokenizer = numbers
    trainer = stock_trainer(tmp_path, model, tokenizer)
    callback = TaskEvaluation(trainer, TASK, ROWS)
    trainer.add_callback(callback)
    trainer.evaluate()
    result = evaluate_task(model, tokenizer, TASK, ROWS, show_progress=False)
    assert result.scores == callback.result.scores and result.predictions == callback.result.predictions
    assert len({row["prediction"] for row in result.predictions}) > 1


def test_predictions_of_the_last_evaluation_are_saved(numbers, tmp_path):
    """In `predictions.jsonl` of the output folder; nothing is written before the first evaluation."""
    trainer = stock_trainer(tmp_path, *numbers)
    callback = TaskEvaluation(trainer, TASK, ROWS)
    callback.save_predictions()
    assert not (tmp_path / "predictions.jsonl").exists()
    trainer.add_callback(callback)
    trainer.evaluate()
    callback.save_predictions()
    assert read_json_lines(tmp_path / "predictions.jsonl") == callback.result.predictions


def test_early_stopping_and_the_best_model_use_the_score(numbers, tmp_path, monkeypatch):
    """The second evaluation is the best: training stops after two more, and its weights are loaded.

    The first score of the list is that of the gold answers, which are scored at the start.
    """
    scripted = iter([100.0, 10.0, 30.0, 20.0, 25.0, 30.0])
    monkeypatch.setattr(TASK, "metric", lambda: Scripted(scripted), raising=False)
    model = new_model(max_position_embeddings=256, vocab_size=400)
    evaluating = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 9}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "chrf"}
    trainer = stock_trainer(tmp_path, model, numbers[1], **evaluating, **best)
    trainer.compute_metrics = lambda _: {}  # with metrics of the user's own, the name is not checked
    trainer.add_callback(TaskEvaluation(trainer, TASK, ROWS))
    trainer.add_callback(EarlyStoppingCallback(2))
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.model.state_dict().items() if name in saved)


class Scripted(Translation):
    """Returns one given score after another."""

    def __init__(self, scores):
        super().__init__("de")
        self.next_score = scores

    def compute(self, **_):
        """The next score (`evaluate.Metric` wants a docstring here)."""
        return {"chrf": next(self.next_score)}


def test_early_stopping_must_come_after_the_score(numbers, tmp_path):
    """Otherwise it would look for a score that is not computed yet."""
    trainer = stock_trainer(tmp_path, *numbers, eval_strategy="steps", metric_for_best_model="chrf")
    trainer.add_callback(EarlyStoppingCallback(2))
    trainer.add_callback(TaskEvaluation(trainer, TASK, ROWS))
    with pytest.raises(ValueError, match="add TaskEvaluation before EarlyStoppingCallback"):
        trainer.train()


def test_an_unknown_metric_for_the_best_model_is_refused_before_training(numbers, tmp_path):
    """The message names the nearest metric."""
    trainer = stock_trainer(tmp_path, *numbers, eval_strategy="steps", metric_for_best_model="eval_chr")
    trainer.add_callback(TaskEvaluation(trainer, TASK, ROWS))
    with pytest.raises(ValueError, match=r"`--metric_for_best_model` eval_chr is not a score .* the nearest is chrf"):
        trainer.train()


def test_the_loss_of_a_source_may_choose_the_best_model(numbers, tmp_path):
    """With a mixture each evaluation has it; that of a source that there is not is refused."""
    trainer = stock_trainer(tmp_path, *numbers, eval_strategy="steps", metric_for_best_model="web_loss")
    trainer.compute_metrics = SourceMetrics({"web": TokenMetrics(), "code": TokenMetrics()}, [1, 1])
    trainer.add_callback(evaluation := TaskEvaluation(trainer, TASK, ROWS))
    evaluation.on_train_begin(trainer.args, None, None)
    trainer.args.metric_for_best_model = "wed_loss"
    with pytest.raises(ValueError, match="wed_loss is not a score of this task; the nearest is web_loss"):
        evaluation.on_train_begin(trainer.args, None, None)


def test_trls_trainer_gives_the_score_of_the_stock_one(numbers, tmp_path):
    """SFTTrainer trains for three steps with the callback; the stock Trainer gives its weights the same score."""
    model, tokenizer = new_model(max_position_embeddings=256, vocab_size=400), numbers[1]
    examples = Dataset.from_list([TASK.to_example(row) for row in TASK.sample()["train"].select(range(16))])
    settings = {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "max_length": 256}
    steps = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "learning_rate": 1e-2}
    args = trl.SFTConfig(str(tmp_path / "trl"), **settings, **steps)
    sft = trl.SFTTrainer(model, args, train_dataset=examples, eval_dataset=examples, processing_class=tokenizer)
    sft.add_callback(TaskEvaluation(sft, TASK, ROWS))
    before = [parameter.clone() for parameter in model.parameters()]
    sft.train()
    assert not all(map(torch.equal, before, model.parameters()))
    in_trl = next(scores for entry in sft.state.log_history if (scores := scores_in(entry)))
    trainer = stock_trainer(tmp_path / "stock", model, tokenizer)
    trainer.add_callback(TaskEvaluation(trainer, TASK, ROWS))
    assert scores_in(trainer.evaluate()) == in_trl and in_trl["eval_chrf"] > 0
