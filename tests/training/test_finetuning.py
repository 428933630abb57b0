"""The loss of a classification head, and what is refused before any data are read."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from transformers import AutoConfig, EvalPrediction
from transformers.trainer_pt_utils import LabelSmoother

from hf_llm.arguments import DataArguments, ModelArguments, TaskArguments
from hf_llm.evaluation.perplexity import SourceMetrics
from hf_llm.tasks import load_task
from hf_llm.training.finetuning import LabelLoss, LabelMetrics, check_model

STOCK_LOSS = {  # what the models of transformers compute
    "regression": lambda logits, labels: mse_loss(logits, labels.float()),
    "single_label_classification": lambda logits, labels: cross_entropy(logits, labels[:, 0]),
    "multi_label_classification": lambda logits, labels: binary_cross_entropy_with_logits(logits, labels.float()),
}


@pytest.mark.parametrize("problem_type", [*STOCK_LOSS])
def test_micro_batches_add_up_to_the_mean_loss_of_the_step(problem_type):
    """The models of transformers give the mean of each micro-batch, which the Trainer would add up."""
    torch.manual_seed(0)
    logits, loss = torch.randn(6, 1 if problem_type == "regression" else 3), LabelLoss(problem_type)
    labels = {"regression": torch.randn(6, 1).double(), "single_label_classification": torch.randint(3, (6, 1))}
    labels = labels.get(problem_type, torch.randint(2, (6, 3)).double())
    whole, items = loss({"logits": logits}, labels), torch.tensor(labels.numel())
    parts = [loss({"logits": logits[rows]}, labels[rows], items) for rows in (slice(0, 2), slice(2, 6))]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)
    assert whole.item() == pytest.approx(STOCK_LOSS[problem_type](logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("problem_type", [*STOCK_LOSS])
def test_the_loss_of_held_out_rows_is_their_mean_also_of_each_source(problem_type):
    """Batches need not have equally many rows, and one may have rows of two sources."""
    torch.manual_seed(0)
    logits, loss = torch.randn(7, 1 if problem_type == "regression" else 3), LabelLoss(problem_type)
    labels = {"regression": torch.randn(7, 1).double(), "single_label_classification": torch.randint(3, (7, 1))}
    labels = labels.get(problem_type, torch.randint(2, (7, 3)).double())
    metrics, rows = SourceMetrics({"a": LabelMetrics(), "b": LabelMetrics()}, [3, 4]), loss.of_rows(logits, labels)
    metrics(EvalPrediction(rows[:5], None), False)
    scores = metrics(EvalPrediction(rows[5:], None), True)
    parts = {"loss": slice(None), "a_loss": slice(3), "b_loss": slice(3, None)}
    assert scores == {
        name: pytest.approx(loss({"logits": logits[part]}, labels[part]).item()) for name, part in parts.items()
    }


def test_label_smoothing_is_that_of_the_trainer():
    """Of classes."""
    torch.manual_seed(0)
    outputs, labels = {"logits": torch.randn(4, 3)}, torch.tensor([[0], [2], [1], [1]])
    ours = LabelLoss("single_label_classification", 0.1)(outputs, labels)
    assert ours.item() == pytest.approx(LabelSmoother(0.1)(outputs, labels).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("summarization", {}, "`--task` summarization needs a model that writes, and `m` .bert. is an encoder"),
        ("understanding", {"system_prompt": "Be kind."}, "`--system_prompt` has no effect on `m`, an encoder"),
        ("understanding", {"train_on": "all"}, "`--train_on` has no effect on `m`, an encoder"),
        ("understanding", {"task_options": {"scoring": "generated"}}, "`--task_options` scoring has no effect on `m`"),
        ("regression", {"task_options": {"decimals": "1"}}, "`--task_options` decimals has no effect on `m`"),
        ("understanding", {"num_fewshot": 2}, "`--num_fewshot` has no effect on `m`, an encoder"),
        ("understanding", {}, "`--max_length` 1024 is beyond the model's 40 positions: give `--max_length 40` or less"),
    ],
)
def test_an_encoder_is_refused_what_it_cannot_do(task, settings, message):
    """Before rows are read and models loaded."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 40}
    config = AutoConfig.for_model("bert", **sizes)
    arguments = ModelArguments(model_name_or_path="m"), TaskArguments(task=task, **settings), DataArguments()
    with pytest.raises(ValueError, match=message):
        check_model(config, *arguments, load_task(task, **settings.get("task_options", {})))
