"""A run without the DeepSpeed that was asked for stops; a run with it logs what each rank holds."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import new_model

from hf_llm.distributed.zero import DeepSpeedInForce, keep_weights_tied

pytestmark = pytest.mark.usefixtures("no_launcher")
ROOT = Path(__file__).parent.parent.parent
ZERO2 = str(ROOT / "ds_configs" / "zero2.json")


def test_a_model_without_an_engine_stops_the_run():
    """The message says what was asked for and the class of the model."""
    trainer = SimpleNamespace(model_wrapped=torch.nn.Linear(1, 1))
    asked = SimpleNamespace(get_value=lambda key, default=None: default or 2)
    args = SimpleNamespace(deepspeed=ZERO2, hf_deepspeed_config=asked)
    with pytest.raises(RuntimeError, match=r"asked for DeepSpeed .*'stage': 2.* the model is a Linear"):
        DeepSpeedInForce(trainer).on_train_begin(args, SimpleNamespace(is_world_process_zero=True), None)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_saved_once(tied):
    """The state of a DeepSpeed model is made of copies, as accelerate's `get_state_dict` makes them for all stages."""
    model = new_model(tie_word_embeddings=tied)
    accelerator = SimpleNamespace(get_state_dict=lambda model, unwrap=True: {k: v.clone() for k, v in model.items()})
    keep_weights_tied(SimpleNamespace(model=model, accelerator=accelerator))
    state = accelerator.get_state_dict(model.state_dict())
    assert (state["lm_head.weight"] is state["model.embed_tokens.weight"]) == tied
    assert torch.equal(state["lm_head.weight"], model.lm_head.weight)


DRIVER = """
import logging, sys
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from hf_llm.distributed.deepspeed_config import prepare_deepspeed
from hf_llm.distributed.ranks import shut_down
from hf_llm.distributed.zero import DeepSpeedInForce

logging.basicConfig()
logging.getLogger("hf_llm").setLevel(logging.INFO)
values = dict(output_dir=sys.argv[1], deepspeed=sys.argv[2], max_steps=2, report_to="none", save_strategy="no")
if sys.argv[3] == "prepared":
    prepare_deepspeed(values)
args = TrainingArguments(**values)
sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
rows = [{"input_ids": [i, 1, 2, 3], "labels": [i, 1, 2, 3]} for i in range(64)]
trainer = Trainer(LlamaForCausalLM(LlamaConfig(**sizes)), args, train_dataset=rows)
trainer.add_callback(DeepSpeedInForce(trainer))
trainer.train()
shut_down()
"""


def run_driver(processes, folder, mode, **how):
    (folder / "driver.py").write_text(DRIVER)
    return processes.fork([folder / "driver.py", folder, ZERO2, mode], folder, **how)


def test_zero2_is_in_force_on_two_cpu_ranks(processes, tmp_path):
    """Each of the two holds half of the optimizer state."""
    run = run_driver(processes, tmp_path, "prepared", ranks=2)
    assert run.status == 0, run.stderr
    # 2 * 64 * 32 embedding and head, 4 * 32 * 32 attention, 3 * 32 * 32 MLP, 3 * 32 norms: 11,360 elements in all.
    assert "DeepSpeed in force: DeepSpeedEngine, ZeRO {'stage': 2" in run.stderr
    assert "2 ranks on cpu, torch.float32; elements held by each rank: {'optimizer': [5680, 5680]}" in run.stderr


def test_a_run_that_drops_deepspeed_stops(processes, tmp_path):
    """With the variable that `accelerate launch --cpu` sets, the Trainer would train without DeepSpeed."""
    run = run_driver(processes, tmp_path, "unprepared", environment={"ACCELERATE_USE_CPU": "True"})
    assert run.status != 0
    assert "RuntimeError: asked for DeepSpeed" in run.stderr and "the model is a LlamaForCausalLM" in run.stderr
