"""Speed counts training steps only, and the FLOPs that they really need."""

from types import SimpleNamespace

import pytest
from datasets import Dataset
from tiny import TEXTS, new_model, new_tokenizer, new_trainer, packed
from transformers import TrainerCallback

from hf_llm.data.packing import PackingCollator, mean_attended_length
from hf_llm.training import throughput
from hf_llm.training.run import run_training
from hf_llm.training.throughput import flops_per_token, logits_share

TOKENIZER = new_tokenizer()
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}


@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_a_token_equal_a_count_by_hand(tied):
    """6 for each parameter of a matrix product, 12 for each attended token, layer and channel; 0 for embeddings."""
    hidden, inner, layers, heads, head, vocab = 16, 32, 2, 2, 8, 300
    model = new_model(tie_word_embeddings=tied)
    block = hidden * heads * head + 2 * hidden * head + heads * head * hidden + 3 * hidden * inner + 2 * hidden
    parameters = layers * block + hidden + vocab * hidden  # the last is the output matrix
    attention = 12 * layers * heads * head * 10
    assert flops_per_token(model, attended=10.0) == 6 * parameters + attention
    without_logits = parameters - 0.75 * vocab * hidden
    assert flops_per_token(model, attended=10.0, logits_share=0.25) == 6 * without_logits + attention


def test_the_attended_length_is_averaged_over_tokens_not_over_documents():
    """Pieces of 3 and 1 tokens: three tokens are in a piece of 3, one in a piece of 1."""
    rows = packed(["x"], TOKENIZER)[1].select([0]).map(lambda row: {"lengths": [3, 1]})
    assert mean_attended_length(rows) == pytest.approx((3 * 3 + 1) / 4)


def test_skipped_logits_do_not_count_as_computed():
    """Three labels of four tokens are -100; they count only if the collator skips prompts."""
    rows = Dataset.from_list([{"labels": [-100, -100, 5]}, {"labels": [-100]}])
    assert logits_share(rows, PackingCollator(0, skip_prompts=True)) == 0.25
    assert logits_share(rows, PackingCollator(0)) == 1


def test_throughput_excludes_evaluation_and_saving(tmp_path, monkeypatch):
    """With a clock on which a step takes 2 s, and an evaluation or a checkpoint 100 s."""
    clock = SimpleNamespace(now=0.0)

    def perf_counter():
        clock.now += 1e-5
        return clock.now

    def passes(seconds):
        return lambda *_, **__: setattr(clock, "now", clock.now + seconds)

    def after(wait, function):
        return lambda *args, **kwargs: wait() or function(*args, **kwargs)

    trainer = new_trainer(
        tmp_path,
        TOKENIZER,
        eval_strategy="steps",
        eval_steps=1,
        per_device_train_batch_size=1,
        save_strategy="steps",
        save_steps=1,
    )
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=perf_counter))
    monkeypatch.setattr(throughput, "peak_flops", lambda device, bf16: (1e6, "a test"))
    callback = TrainerCallback()
    callback.on_step_begin = passes(2)
    trainer.add_callback(callback)
    for slow in ("compute_metrics", "save_model"):
        monkeypatch.setattr(trainer, slow, after(passes(100), getattr(trainer, slow)))
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    reports = {"train": [packed(TEXTS, TOKENIZER)[2]], "eval": []}
    metrics = run_training(trainer, None, packing=True, reports=reports)

    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 4
    flops = flops_per_token(trainer.model, mean_attended_length(trainer.train_dataset))
    for log in logs:
        assert round(2 * log["tokens_per_second"]) in lengths
        assert log["mfu"] == pytest.approx(log["tokens_per_second"] * flops / 1e6, rel=1e-2)
    rate = sum(log["tokens_per_second"] for log in logs) / 4
    assert metrics["train_tokens_per_second"] == pytest.approx(rate, rel=1e-2)
    assert metrics["train_mfu"] == pytest.approx(rate * flops / 1e6, rel=1e-2)
