"""Claims about losses that a model adds to that of its tokens."""

import json

import pytest
import torch
from tiny import SETTINGS, SIZES, new_model, new_tokenizer, new_trainer, relative_error
from transformers import set_seed

from hf_llm.arguments import AdapterArguments
from hf_llm.data.packing import PackingCollator
from hf_llm.models.adapters import add_adapter
from hf_llm.models.loading import load_for_generation
from hf_llm.training.added_losses import DividedLoss
from hf_llm.training.run import run_training

EXPERTS = SIZES | {"intermediate_size": 32, "num_key_value_heads": 1, "output_router_logits": True}
EXPERTS |= {"router_aux_loss_coef": 0.1, "num_experts_per_tok": 2}
MODELS = {
    "mixtral": EXPERTS | {"num_local_experts": 4},
    "qwen2_moe": EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "qwen3_moe": EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    "jetmoe": EXPERTS | {"num_local_experts": 4, "kv_channels": 8, "aux_loss_coef": 0.1},
    "bamba": SIZES
    | {"intermediate_size": 32, "num_key_value_heads": 1, "attn_layer_indices": [1], "z_loss_coefficient": 0.01}
    | {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
}


def new_experts(monkeypatch, model_type):
    monkeypatch.setitem(SETTINGS, model_type, MODELS[model_type])
    return new_model(model_type, initializer_range=0.1)


def train(folder, tokenizer, model, rows, micro_batches, **settings):
    """Train two steps of `rows * micro_batches` rows and return the Trainer and its figures."""
    set_seed(1)
    batches = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}
    trainer = new_trainer(folder, tokenizer, model, max_steps=2, eval_strategy="steps", **batches, **settings)
    return trainer, run_training(trainer, None, False, {"train": [], "eval": []})


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.mark.parametrize("model_type", MODELS)
def test_losses_and_weights_do_not_depend_on_how_a_step_is_divided(model_type, tokenizer, tmp_path, monkeypatch):
    """Four micro-batches of one row give what one micro-batch of four rows gives, the loss of the routers included."""
    losses, weights = [], []
    for rows, micro_batches in ((1, 4), (4, 1)):
        model = new_experts(monkeypatch, model_type)
        trainer, _ = train(tmp_path / f"{rows}", tokenizer, model, rows, micro_batches)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)
    assert relative_error(weights[0], weights[1]) < 1e-4


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_a_row_by_itself_has_the_loss_that_the_model_adds(model_type, monkeypatch):
    """For a batch of one row the loss, the router's included, is what the model returns."""
    model, row = new_experts(monkeypatch, model_type), {"input_ids": torch.arange(5, 25).numpy(), "lengths": [12, 8]}
    for skip_prompts in (False, True):
        batch = PackingCollator(2, skip_prompts=skip_prompts)([row])
        own = model(**batch)
        labels = batch.pop("labels")
        assert own.aux_loss > 0.5
        assert DividedLoss(model)(model(**batch), labels).item() == pytest.approx(own.loss.item(), rel=1e-6)


def test_padding_does_not_count_for_the_routers(monkeypatch):
    """A short row has the same loss alone and beside a long one."""
    model = new_experts(monkeypatch, "mixtral")
    rows = [{"input_ids": torch.arange(5, 5 + n).numpy(), "lengths": [n]} for n in (30, 9)]
    losses = []
    for batch in ([rows[0]], [rows[1]], rows):
        inputs = PackingCollator(2)(batch)
        labels = inputs.pop("labels")
        losses.append(DividedLoss(model)(model(**inputs), labels, num_items_in_batch=37).item())
    assert losses[0] + losses[1] == pytest.approx(losses[2], rel=1e-6)


def test_the_logits_of_experts_are_evaluated_by_name(tokenizer, tmp_path, monkeypatch):
    """The first output is the routers' loss; the evaluation's loss is that of the logits, during and after training."""
    model = new_experts(monkeypatch, "mixtral")
    trainer, figures = train(tmp_path, tokenizer, model, 2, 1)
    during = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert during[-1] == figures["eval_loss"]
    model.config.output_router_logits = False
    assert trainer.evaluate()["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-6)


def test_label_smoothing_keeps_the_loss_of_the_routers(tokenizer, tmp_path, monkeypatch):
    """And the smoothed loss does not depend on how a step is divided."""
    losses = []
    for coefficient, rows in ((0.1, 1), (0.1, 4), (0.0, 4)):
        model = new_experts(monkeypatch, "mixtral")
        model.router_aux_loss_coef = coefficient
        settings = {"label_smoothing_factor": 0.1}
        trainer, _ = train(tmp_path / f"{coefficient} {rows}", tokenizer, model, rows, 4 // rows, **settings)
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)
    assert losses[0] - losses[2] > 0.15


def test_adapters_on_experts_train_with_the_loss_of_the_routers(tokenizer, tmp_path, monkeypatch):
    """The model inside the adapters adds the loss."""
    losses = []
    for rows in (1, 4):
        set_seed(1)
        model = add_adapter(new_experts(monkeypatch, "qwen2_moe"), AdapterArguments(lora_r=2))
        trainer, _ = train(tmp_path / f"{rows}", tokenizer, model, rows, 4 // rows)
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)


def test_a_routers_loss_of_another_kind_is_refused(tokenizer, tmp_path, monkeypatch):
    """Doge's routers have two logits for each token; the message has the setting that helps."""
    doge = SIZES | {"is_moe": True, "num_experts": 16, "intermediate_size": 32, "output_router_logits": True}
    monkeypatch.setitem(MODELS, "doge", doge)
    model = new_experts(monkeypatch, "doge")
    with pytest.raises(ValueError, match="`output_router_logits` to false"):
        train(tmp_path, tokenizer, model, 2, 1)


def test_the_outputs_of_a_config_without_names_have_names(tmp_path, monkeypatch):
    """A model whose config says `return_dict: false` is loaded as one whose outputs are found by name."""
    new_experts(monkeypatch, "mixtral").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"return_dict": False}))
    new_tokenizer().save_pretrained(tmp_path)
    model, _ = load_for_generation(str(tmp_path))
    assert model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.shape == (1, 4, 300)
