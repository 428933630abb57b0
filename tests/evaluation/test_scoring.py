"""Scores are means over tokens and lengths per byte: they compare, whatever the batches and the tokenizer."""

import math
import zlib

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from safetensors.torch import load_file
from tiny import TEXTS, new_model, new_tokenizer, new_trainer, packed
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_llm.arguments import AdapterArguments, DataArguments, EvalArguments, TaskArguments
from hf_llm.data.prompting import Prompter, encode_examples
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.evaluation.perplexity import LanguageModelingMetrics, token_losses, zlib_bits_per_byte
from hf_llm.evaluation.scoring import TaskEvaluation, evaluate_task, load_evaluations, score_model
from hf_llm.metrics.translation import Translation
from hf_llm.models.loading import add_adapter
from hf_llm.tasks import load_task

# Of unequal lengths, with characters of several bytes; with rows of 16 tokens some are cut.
HELD_OUT = [*TEXTS[:9], "naïve 汉字 🙂", "one two three " * 30]


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module", params=[True, False], ids=["bos", "no bos"])
def tokenizer(request):
    """With and without a token that opens every document."""
    tokenizer = new_tokenizer()
    if request.param:
        return tokenizer
    tokenizer.backend_tokenizer.post_processor = None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|eos|>", pad_token="<|pad|>"
    )


@pytest.fixture(scope="module")
def evaluate(model, tokenizer, tmp_path_factory):
    """`eval_` scores from the stock Trainer, rows of 16 tokens, in batches of any size."""

    def evaluate(batch_size, packing=True, times=1):
        documents, rows, _ = packed(HELD_OUT, tokenizer, max_length=16, packing=packing)
        trainer = new_trainer(tmp_path_factory.mktemp("run"), tokenizer, model, per_device_eval_batch_size=batch_size)
        trainer.compute_metrics = LanguageModelingMetrics(documents, rows, tokenizer)
        for _ in range(times):
            metrics = trainer.evaluate(rows)
        return metrics

    return evaluate


@pytest.fixture(scope="module")
def by_hand(model, tokenizer):
    """Summed loss in nats and number of the predicted tokens, tokens that nothing predicts, bytes of the text."""
    loss = predicted = unpredicted = 0
    for ids in packed(HELD_OUT, tokenizer, max_length=16, packing=False)[1]["input_ids"]:
        piece = torch.tensor(ids)
        with torch.no_grad():
            log_p = model(piece[None]).logits[0].double().log_softmax(-1)
        loss -= sum(log_p[i, token].item() for i, token in enumerate(piece[1:].tolist()))
        predicted += len(piece) - 1
        unpredicted += piece[0].item() != tokenizer.bos_token_id  # everybody knows that a document opens
    return loss, predicted, unpredicted, sum(len(text.encode()) for text in HELD_OUT)


@pytest.mark.parametrize("packing", [True, False], ids=["packing", "no packing"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_equal_a_computation_by_hand_in_batches_of_any_size(evaluate, by_hand, tokenizer, batch_size, packing):
    """eval_loss is the mean over all predicted tokens, perplexity its exp; bits per byte pays for every token."""
    metrics = evaluate(batch_size, packing)
    loss, predicted, unpredicted, num_bytes = by_hand
    assert metrics["eval_loss"] == pytest.approx(loss / predicted, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(loss / predicted), rel=1e-4)
    assert unpredicted > 0
    bits = loss / math.log(2) + unpredicted * math.log2(len(tokenizer))
    assert metrics["eval_bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)


def test_a_second_evaluation_starts_from_zero(evaluate):
    """Its scores are those of the first."""
    once, twice = evaluate(3), evaluate(3, times=2)
    assert once["eval_loss"] == twice["eval_loss"] and once["eval_bits_per_byte"] == twice["eval_bits_per_byte"]


def test_the_trainers_own_loss_would_weigh_batches_equally(by_hand, model, tokenizer, tmp_path):
    """Why eval_loss is replaced: without our metrics it depends on the batches."""
    _, rows, _ = packed(HELD_OUT, tokenizer, max_length=16, packing=False)
    trainer = new_trainer(tmp_path, tokenizer, model, per_device_eval_batch_size=1)
    trainer.compute_metrics = trainer.preprocess_logits_for_metrics = None
    loss, predicted, *_ = by_hand
    assert abs(trainer.evaluate(rows)["eval_loss"] - loss / predicted) > 1e-3


def test_token_losses_are_sums_and_counts_of_each_row():
    """Row by row the cross entropy of the labels that are not -100, also when logits come in a tuple, in
    bfloat16, or are only those before a label."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7)
    labels = torch.tensor([[1, 2, -100, 3], [-100, -100, 5, -100]])
    p = logits.log_softmax(-1)
    expected = [[-(p[0, 0, 2] + p[0, 2, 3]).item(), 2], [-p[1, 1, 5].item(), 1]]
    assert np.allclose(token_losses(logits, labels).numpy(), expected)
    assert np.allclose(token_losses((logits, None), labels).numpy(), expected)
    assert np.allclose(token_losses(logits.bfloat16(), labels).numpy(), expected, rtol=0.02)
    before_a_label = torch.stack([logits[0, 0], logits[0, 2], logits[1, 1]])
    assert np.allclose(token_losses(before_a_label, labels).numpy(), expected)


def test_an_enormous_loss_is_an_infinite_perplexity(tokenizer):
    """Rather than an OverflowError at the end of the run."""
    documents, rows, _ = packed(["text"], tokenizer)
    metrics = LanguageModelingMetrics(documents, rows, tokenizer)
    scores = metrics(EvalPrediction(torch.tensor([[1e6, 10.0]]), None), compute_result=True)
    assert scores["loss"] == 1e5 and scores["perplexity"] == math.inf


def test_the_zlib_figure_is_that_of_the_joined_text(tokenizer):
    """What zlib level 9 makes of the same bytes, in one stream."""
    joined = "".join(HELD_OUT).encode()
    expected = 8 * len(zlib.compress(joined, 9)) / len(joined)
    assert zlib_bits_per_byte(HELD_OUT) == pytest.approx(expected)
    documents, rows, _ = packed(HELD_OUT, tokenizer)
    assert LanguageModelingMetrics(documents, rows, tokenizer).zlib_bits_per_byte == pytest.approx(expected)


def test_bytes_are_counted_in_the_rows_that_are_evaluated(tokenizer):
    """A selection of a data set has the bytes of its own rows."""
    documents, rows, _ = packed(["123", "12345"], tokenizer)
    chosen = Dataset.from_dict({"text": ["no", "123", "neither", "12345"]}).select([1, 3])
    whole, part = (LanguageModelingMetrics(d, rows, tokenizer) for d in (documents, chosen))
    prediction = EvalPrediction(torch.tensor([[8.0, 5.0]]), None)
    assert whole(prediction, compute_result=True) == part(prediction, compute_result=True)


# The score of a task, in any Trainer

TASK = load_task("translation")
ROWS = TASK.sample()["validation"].select(range(7))


@pytest.fixture(scope="module")
def numbers():
    """A model that has room for a prompt of the task, and its tokenizer."""
    texts = [text for row in TASK.sample()["train"] for text in row["translation"].values()]
    return new_model(max_position_embeddings=256, vocab_size=400), train_tokenizer(texts, vocab_size=400)


def scores_in(metrics):
    """What the task's metric has put into the Trainer's metrics."""
    return {name: value for name, value in metrics.items() if name.startswith(("eval_bleu", "eval_chrf"))}


def stock_trainer(folder, model, tokenizer, **settings):
    args = TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **settings)
    features, _ = encode_examples(TASK.sample()["train"].select(range(8)), Prompter(tokenizer, TASK, 256))
    collator = DataCollatorForSeq2Seq(tokenizer)
    return Trainer(model, args, collator, features, features, processing_class=tokenizer)


def test_a_tasks_scores_join_the_trainers_and_are_logged(numbers, tmp_path):
    """They are in what `evaluate` returns, and in the log that every tracker gets, with their intervals."""
    trainer = stock_trainer(tmp_path, *numbers)
    callback = TaskEvaluation(trainer, TASK, ROWS)
    trainer.add_callback(callback)
    metrics = trainer.evaluate()
    scores = scores_in(metrics)
    assert set(scores) == {f"eval_{name}{end}" for name in ("bleu", "chrf") for end in ("", "_ci95_low", "_ci95_high")}
    assert scores["eval_chrf"] == callback.result.scores["chrf"] and "eval_loss" in metrics
    assert scores_in(trainer.state.log_history[-1]) == scores


def test_the_score_is_that_of_the_function_alone(numbers, tmp_path):
    """`evaluate_task` on the same rows gives the same numbers and predictions; the model's mode is as before."""
    model, tokenizer = numbers
    trainer = stock_trainer(tmp_path, model, tokenizer)
    callback = TaskEvaluation(trainer, TASK, ROWS)
    trainer.add_callback(callback)
    trainer.evaluate()
    alone = evaluate_task(model, tokenizer, TASK, ROWS, show_progress=False)
    assert alone.scores == callback.result.scores and alone.predictions == callback.result.predictions
    assert len({row["prediction"] for row in alone.predictions}) > 1


def test_the_score_decides_when_to_stop_and_what_to_keep(numbers, tmp_path, monkeypatch):
    """Best at the second evaluation and then never again: stopped after the patience, the second weights loaded.

    The first score is that of the gold answers, which are tried at the start.
    """
    scripted = iter([100.0, 10.0, 30.0, 20.0, 25.0, 30.0])
    monkeypatch.setattr(TASK, "metric", lambda: Scripted(scripted), raising=False)
    model = new_model(max_position_embeddings=256, vocab_size=400)
    evaluating = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 9}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "chrf"}
    trainer = stock_trainer(tmp_path, model, numbers[1], **evaluating, **best)
    trainer.compute_metrics = lambda _: {}  # scores of somebody else's may be meant, so that the name is not checked
    trainer.add_callback(TaskEvaluation(trainer, TASK, ROWS))
    trainer.add_callback(EarlyStoppingCallback(2))
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.model.state_dict().items() if name in saved)


class Scripted(Translation):
    """Gives one score after the other."""

    def __init__(self, scores):
        super().__init__("de")
        self.next_score = scores

    def compute(self, **_):
        """The next score (`evaluate.Metric` wants a docstring here)."""
        return {"chrf": next(self.next_score)}


def test_early_stopping_must_come_after_the_score(numbers, tmp_path):
    """Or it would look for a score that is not there yet."""
    trainer = stock_trainer(tmp_path, *numbers, eval_strategy="steps", metric_for_best_model="chrf")
    trainer.add_callback(EarlyStoppingCallback(2))
    trainer.add_callback(TaskEvaluation(trainer, TASK, ROWS))
    with pytest.raises(ValueError, match="add TaskEvaluation before EarlyStoppingCallback"):
        trainer.train()


def test_a_metric_that_no_evaluation_has_is_refused_before_training(numbers, tmp_path):
    """With the nearest one that there will be."""
    trainer = stock_trainer(tmp_path, *numbers, eval_strategy="steps", metric_for_best_model="eval_chr")
    trainer.add_callback(TaskEvaluation(trainer, TASK, ROWS))
    with pytest.raises(ValueError, match=r"`--metric_for_best_model` eval_chr is no score .* the nearest is chrf"):
        trainer.train()


def test_trls_trainer_gives_the_score_of_the_stock_one(numbers, tmp_path):
    """Trained for three steps by SFTTrainer with the callback; the stock Trainer scores the same weights alike."""
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


def test_an_adapter_without_a_tokenizer_is_scored_with_that_of_its_base(tmp_path):
    """As `PeftModel.save_pretrained` leaves it; also as a baseline."""
    base, folder = tmp_path / "base", str(tmp_path / "adapter")
    new_model(max_position_embeddings=256).save_pretrained(base)
    new_tokenizer().save_pretrained(base)
    model = new_model(max_position_embeddings=256)
    model.name_or_path = str(base)
    add_adapter(model, AdapterArguments(lora_r=2)).save_pretrained(folder)
    args = EvalArguments(model_name_or_path=folder, baseline=folder, dtype="float32")
    evaluations = load_evaluations({"bias": (TaskArguments(task="bias"), DataArguments(), args)}, args)
    (result,) = score_model(folder, evaluations, args)
    assert len(result.predictions) == len(load_task("bias").sample()["validation"])
