"""DeepSpeed: one JSON, consistent with the arguments, really in force."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_llm.distributed import deepspeed_config
from hf_llm.distributed.deepspeed_config import check_consistency, prepare_deepspeed
from hf_llm.distributed.zero import DeepSpeedInForce

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "ds_configs").glob("*.json"))
ZERO2 = str(ROOT / "ds_configs" / "zero2.json")
RANK = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """An environment without a launcher, on a machine without a GPU; nothing set here outlives the test."""
    for name in [*RANK, *(name for name in os.environ if name.startswith(("ACCELERATE_", "OMPI_", "PMI_")))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(deepspeed_config, "use_cpu_ranks", lambda config, values: None)


@pytest.fixture
def rank(monkeypatch):
    """The environment that torchrun gives the first of two ranks."""
    for name, value in RANK.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_agree_with_any_arguments(path):
    values = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5, "max_grad_norm": 0.3, "bf16": True}
    check_consistency(json.loads(path.read_text()), values, world_size=7)


def test_every_conflict_is_in_one_line_with_its_remedy():
    config = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.1,
        "bf16": {"enabled": True},
        "fp16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW"},
        "scheduler": {"type": "WarmupLR"},
        "zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}},
    }
    with pytest.raises(ValueError) as error:
        check_consistency(config, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, world_size=2)
    message = str(error.value)
    for part in [
        "`train_batch_size` is 64, but `--per_device_train_batch_size` is 4, `--gradient_accumulation_steps` is 2 "
        'and 2 ranks make 16: write "auto"',
        '`train_micro_batch_size_per_gpu` is 8, but `--per_device_train_batch_size` is 4: write "auto"',
        '`gradient_accumulation_steps` is 4, but `--gradient_accumulation_steps` is 2: write "auto"',
        '`gradient_clipping` is 0.1, but `--max_grad_norm` is 1.0: write "auto"',
        '`bf16.enabled` is true, but `--bf16` is False: write "auto"',
        "`optimizer` block: it would silently win over `--learning_rate`",
        "`scheduler` block: it would silently win over `--lr_scheduler_type`",
        '`zero_optimization.offload_param.device` is "cpu" in stage 2: needs stage 3 or higher',
    ]:
        assert part in message
    assert message.count(";") == 7 and "\n" not in message


@pytest.mark.parametrize(
    "zero, complaint",
    [
        ({"stage": 4}, "`zero_optimization.stage` is 4: write 0, 1, 2 or 3"),
        ({"stage": "auto"}, '`zero_optimization.stage` is "auto": write 0, 1, 2 or 3'),
        ({}, "`zero_optimization.stage` is null: write 0, 1, 2 or 3"),
        (2, "`zero_optimization` is no JSON object"),
        ({"stage": 0, "offload_optimizer": {"device": "cpu"}}, 'is "cpu" in stage 0: needs stage 1 or higher'),
        ({"stage": 2, "offload_optimizer": {"device": "auto"}}, 'is "auto": write none, cpu or nvme'),
    ],
)
def test_impossible_zero_settings_are_refused(zero, complaint):
    with pytest.raises(ValueError, match="zero_optimization") as error:
        check_consistency({"zero_optimization": zero}, {}, world_size=1)
    assert complaint in str(error.value)


def test_numbers_that_agree_with_the_arguments_pass():
    config = {"train_batch_size": 16, "gradient_clipping": 1, "zero_optimization": {"stage": 3}}
    check_consistency(config, {"per_device_train_batch_size": 8}, world_size=2)


@pytest.mark.parametrize(
    "text, complaint",
    [
        (None, "cannot be read: No such file or directory"),
        ('{"zero_optimization": {\n  "stage": 2,\n}}', "line 3"),
        ("[1]", "holds a JSON list"),
        ('{"zero_optimization": {"stage": 2, "stage": 3}}', "`stage` appears twice"),
        ("{}", "`zero_optimization.stage` is null"),
    ],
)
def test_a_bad_file_is_named(tmp_path, rank, text, complaint):
    path = tmp_path / "zero.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"zero\.json") as error:
        prepare_deepspeed({"deepspeed": str(path)})
    assert complaint in str(error.value)


def test_what_the_json_leaves_out_follows_the_arguments(rank):
    values = {"deepspeed": '{"zero_optimization": {"stage": 3}}'}
    prepare_deepspeed(values)
    assert values["deepspeed"] == {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    }


def test_nothing_happens_without_deepspeed():
    values = {"deepspeed": None}
    prepare_deepspeed(values)
    assert values == {"deepspeed": None} and "RANK" not in os.environ


def test_several_gpus_without_a_launcher_get_the_command(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(ValueError, match=r"accelerate launch --use_deepspeed --num_processes 4 train.py"):
        prepare_deepspeed({"deepspeed": ZERO2})


def test_use_cpu_beside_a_gpu_is_refused(monkeypatch, rank):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES= accelerate launch"):
        prepare_deepspeed({"deepspeed": ZERO2, "use_cpu": True})


@pytest.mark.parametrize(
    "environment, complaint",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "name one JSON|without a JSON"),
        ({"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}, "starts one process on CPU"),
        (RANK | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "`--zero_stage` of accelerate launch is overruled"),
        (RANK | {"ACCELERATE_MIXED_PRECISION": "bf16"}, "`accelerate launch --mixed_precision bf16` without `--bf16`"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "on 2 devices needs a launcher"),
    ],
)
def test_a_launch_that_does_something_else_is_refused(monkeypatch, environment, complaint):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=complaint):
        prepare_deepspeed({"deepspeed": None if "ACCELERATE_USE_DEEPSPEED" in environment else ZERO2})


def test_the_json_of_the_launcher_is_taken(monkeypatch, rank):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", ZERO2)
    values = {"deepspeed": None}
    prepare_deepspeed(values)
    assert values["deepspeed"]["zero_optimization"]["stage"] == 2
    with pytest.raises(ValueError, match="name one JSON"):
        prepare_deepspeed({"deepspeed": str(CONFIGS[0])})


def test_a_bare_model_is_not_taken_for_deepspeed():
    trainer = SimpleNamespace(model_wrapped=torch.nn.Linear(1, 1))
    asked = SimpleNamespace(get_value=lambda key, default=None: default or 2)
    args = SimpleNamespace(deepspeed=ZERO2, hf_deepspeed_config=asked)
    with pytest.raises(RuntimeError, match=r"asked for DeepSpeed .*'stage': 2.* the model is a Linear"):
        DeepSpeedInForce(trainer).on_train_begin(args, SimpleNamespace(is_world_process_zero=True), None)


DRIVER = """
import logging, sys
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from hf_llm.distributed import DeepSpeedInForce, prepare_deepspeed, shut_down

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


def run_driver(tmp_path, launcher, mode, **environment):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, *launcher, str(script), str(tmp_path), ZERO2, mode]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)


def test_zero2_is_in_force_on_two_cpu_ranks(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = run_driver(tmp_path, launcher, "prepared")
    assert run.returncode == 0, run.stderr
    # 2 * 64 * 32 embedding and head, 4 * 32 * 32 attention, 3 * 32 * 32 MLP, 3 * 32 norms: 11,360 elements in all.
    assert "DeepSpeed in force: DeepSpeedEngine, ZeRO {'stage': 2" in run.stderr
    assert "2 ranks on cpu, torch.float32; elements held by each rank: {'optimizer': [5680, 5680]}" in run.stderr


def test_a_run_that_drops_deepspeed_stops(tmp_path):
    """`accelerate launch --cpu` sets this variable, and the Trainer would train without DeepSpeed."""
    run = run_driver(tmp_path, [], "unprepared", ACCELERATE_USE_CPU="True")
    assert run.returncode != 0
    assert "RuntimeError: asked for DeepSpeed" in run.stderr and "the model is a LlamaForCausalLM" in run.stderr
