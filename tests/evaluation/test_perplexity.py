"""Losses are means over tokens, bits per byte compare between tokenizers; neither depends on the batches."""

import math
import zlib

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import TEXTS, new_model, new_tokenizer, new_trainer, packed
from transformers import EvalPrediction, PreTrainedTokenizerFast

from hf_llm.data.text_size import zlib_bits_per_byte
from hf_llm.evaluation.perplexity import LanguageModelingMetrics, masked_token_losses, position_losses, token_losses

# Texts of different lengths, some with characters of several bytes, some longer than rows of 16 tokens.
HELD_OUT = [*TEXTS[:9], "naïve 汉字 🙂", "one two three " * 30]


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module", params=[True, False], ids=["bos", "no bos"])
def tokenizer(request):
    """With and without a bos token at the start of every document."""
    tokenizer = new_tokenizer()
    if request.param:
        return tokenizer
    tokenizer.backend_tokenizer.post_processor = None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|eos|>", pad_token="<|pad|>"
    )


@pytest.fixture(scope="module")
def evaluate(model, tokenizer, tmp_path_factory):
    """`eval_` scores of the stock Trainer for rows of 16 tokens, in batches of any size."""

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
    """Summed loss in nats, number of predicted tokens, number of tokens without a prediction, bytes of the text."""
    loss = predicted = unpredicted = 0
    for ids in packed(HELD_OUT, tokenizer, max_length=16, packing=False)[1]["input_ids"]:
        piece = torch.tensor(ids)
        with torch.no_grad():
            log_p = model(piece[None]).logits[0].double().log_softmax(-1)
        loss -= sum(log_p[i, token].item() for i, token in enumerate(piece[1:].tolist()))
        predicted += len(piece) - 1
        unpredicted += piece[0].item() != tokenizer.bos_token_id  # a bos token costs nothing
    return loss, predicted, unpredicted, sum(len(text.encode()) for text in HELD_OUT)


@pytest.mark.parametrize("packing", [True, False], ids=["packing", "no packing"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_equal_a_computation_by_hand_in_batches_of_any_size(evaluate, by_hand, tokenizer, batch_size, packing):
    """eval_loss is the mean over all predicted tokens, perplexity its exp; bits per byte counts every token."""
    metrics = evaluate(batch_size, packing)
    loss, predicted, unpredicted, num_bytes = by_hand
    assert metrics["eval_loss"] == pytest.approx(loss / predicted, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(loss / predicted), rel=1e-4)
    assert unpredicted > 0
    bits = loss / math.log(2) + unpredicted * math.log2(len(tokenizer))
    assert metrics["eval_bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)


def test_a_second_evaluation_starts_from_zero(evaluate):
    """It gives the scores of the first one."""
    once, twice = evaluate(3), evaluate(3, times=2)
    assert once["eval_loss"] == twice["eval_loss"] and once["eval_bits_per_byte"] == twice["eval_bits_per_byte"]


def test_the_trainers_own_loss_depends_on_the_batches(by_hand, model, tokenizer, tmp_path):
    """Without our metrics eval_loss is the mean of the batches' means, which differs from the mean over tokens."""
    _, rows, _ = packed(HELD_OUT, tokenizer, max_length=16, packing=False)
    trainer = new_trainer(tmp_path, tokenizer, model, per_device_eval_batch_size=1)
    trainer.compute_metrics = trainer.preprocess_logits_for_metrics = None
    loss, predicted, *_ = by_hand
    assert abs(trainer.evaluate(rows)["eval_loss"] - loss / predicted) > 1e-3


def test_token_losses_are_sums_and_counts_of_each_row():
    """Cross entropy of the labels other than -100; also for logits in bfloat16, or only before labels."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7)
    labels = torch.tensor([[1, 2, -100, 3], [-100, -100, 5, -100]])
    p = logits.log_softmax(-1)
    expected = [[-(p[0, 0, 2] + p[0, 2, 3]).item(), 2], [-p[1, 1, 5].item(), 1]]
    assert np.allclose(token_losses(logits, labels).numpy(), expected)
    assert np.allclose(token_losses(logits.bfloat16(), labels).numpy(), expected, rtol=0.02)
    before_a_label = torch.stack([logits[0, 0], logits[0, 2], logits[1, 1]])
    assert np.allclose(token_losses(before_a_label, labels).numpy(), expected)


@pytest.mark.parametrize("losses", [token_losses, masked_token_losses])
def test_logits_are_not_looked_for_among_other_outputs(losses):
    """The first output of a model may be something else; the message has the argument that keeps the logits only."""
    with pytest.raises(ValueError, match="`ignore_keys`"):
        losses((torch.tensor(1.0), torch.randn(1, 4, 7)), torch.ones(1, 4, dtype=torch.long))


def test_an_enormous_loss_is_an_infinite_perplexity(tokenizer):
    """Instead of an OverflowError at the end of the run."""
    documents, rows, _ = packed(["text"], tokenizer)
    metrics = LanguageModelingMetrics(documents, rows, tokenizer)
    scores = metrics(EvalPrediction(torch.tensor([[1e6, 10.0]]), None), compute_result=True)
    assert scores["loss"] == 1e5 and scores["perplexity"] == math.inf


def test_zlib_bits_per_byte_are_those_of_the_joined_texts(tokenizer):
    """The texts are compressed at level 9 in one stream."""
    joined = "".join(HELD_OUT).encode()
    expected = 8 * len(zlib.compress(joined, 9)) / len(joined)
    assert zlib_bits_per_byte(HELD_OUT) == pytest.approx(expected)
    documents, rows, _ = packed(HELD_OUT, tokenizer)
    assert LanguageModelingMetrics(documents, rows, tokenizer).zlib_bits_per_byte == pytest.approx(expected)


def test_bytes_are_counted_only_in_the_evaluated_rows(tokenizer):
    """A selection of rows has the bytes of these rows, not of the whole data set."""
    documents, rows, _ = packed(["123", "12345"], tokenizer)
    chosen = Dataset.from_dict({"text": ["no", "123", "neither", "12345"]}).select([1, 3])
    whole, part = (LanguageModelingMetrics(d, rows, tokenizer) for d in (documents, chosen))
    prediction = EvalPrediction(torch.tensor([[8.0, 5.0]]), None)
    assert whole(prediction, compute_result=True) == part(prediction, compute_result=True)


def test_losses_of_documents_add_up_to_the_scores(model, tokenizer, tmp_path):
    """Of documents cut into pieces and packed into rows of others: as evaluated alone, and in sum the run's scores."""
    documents, rows, _ = packed(HELD_OUT, tokenizer, max_length=16, number_documents=True)
    trainer = new_trainer(tmp_path, tokenizer, model, per_device_eval_batch_size=3)
    trainer.compute_metrics = metrics = LanguageModelingMetrics(documents, rows, tokenizer)
    trainer.preprocess_logits_for_metrics = position_losses
    scores = trainer.evaluate(rows)
    losses = metrics.document_losses()
    assert [row["bytes"] for row in losses] == [len(text.encode()) for text in HELD_OUT]
    loss, tokens, bits, size = (sum(row[name] for row in losses) for name in ("loss", "tokens", "bits", "bytes"))
    assert loss / tokens == pytest.approx(scores["eval_loss"])
    assert bits / size == pytest.approx(scores["eval_bits_per_byte"])
    trainer.compute_metrics = alone = LanguageModelingMetrics(
        *packed(HELD_OUT[-1:], tokenizer, max_length=16, number_documents=True)[:2], tokenizer
    )
    trainer.evaluate(alone.rows)
    (expected,) = alone.document_losses()
    assert losses[-1]["document"] == expected["document"]
    assert losses[-1]["bits"] == pytest.approx(expected["bits"], rel=1e-5)
