"""The DeepSpeed JSON is completed from the command line, and refused where it contradicts it or the launcher."""

import json
import os
from pathlib import Path

import pytest

from hf_llm.distributed.deepspeed_config import check_consistency, prepare_deepspeed

pytestmark = pytest.mark.usefixtures("no_launcher")
ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "ds_configs").glob("*.json"))
ZERO2 = str(ROOT / "ds_configs" / "zero2.json")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_agree_with_any_arguments(path):
    """What `TrainingArguments` decide is "auto" in them."""
    values = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5, "max_grad_norm": 0.3, "bf16": True}
    check_consistency(json.loads(path.read_text()), values, world_size=7)


def test_every_conflict_is_in_one_line_with_its_remedy():
    """Eight conflicts of all kinds give one message."""
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
        (2, "`zero_optimization` is not a JSON object"),
        ({"stage": 0, "offload_optimizer": {"device": "cpu"}}, 'is "cpu" in stage 0: needs stage 1 or higher'),
        ({"stage": 2, "offload_optimizer": {"device": "auto"}}, 'is "auto": write none, cpu or nvme'),
    ],
)
def test_impossible_zero_settings_are_refused(zero, complaint):
    """The message names the key, its value and the values that are possible."""
    with pytest.raises(ValueError, match="zero_optimization") as error:
        check_consistency({"zero_optimization": zero}, {}, world_size=1)
    assert complaint in str(error.value)


def test_numbers_that_agree_with_the_arguments_pass():
    """A JSON may have numbers in place of "auto"; an integer equals a float."""
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
def test_a_bad_file_is_named(tmp_path, torchrun, text, complaint):
    """The message has the file's name and, for broken JSON, the line."""
    path = tmp_path / "zero.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"zero\.json") as error:
        prepare_deepspeed({"deepspeed": str(path)})
    assert complaint in str(error.value)


def test_missing_keys_follow_the_arguments(torchrun):
    """Keys that `TrainingArguments` decide are added as "auto"; stage 3 saves its weights."""
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


def test_nothing_is_changed_without_deepspeed():
    """Neither the values nor the environment."""
    values = {"deepspeed": None}
    prepare_deepspeed(values)
    assert values == {"deepspeed": None} and "RANK" not in os.environ


@pytest.mark.parametrize(
    "environment, complaint",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "`accelerate launch --use_deepspeed` without a JSON"),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "`--zero_stage` of accelerate launch is overruled"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "`accelerate launch --mixed_precision bf16` without `--bf16`"),
    ],
)
def test_settings_of_the_launcher_that_would_be_ignored_are_refused(monkeypatch, torchrun, environment, complaint):
    """They would contradict the JSON, or accelerate would use a configuration that is in no file."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=complaint):
        prepare_deepspeed({"deepspeed": None if "ACCELERATE_USE_DEEPSPEED" in environment else ZERO2})


def test_the_json_of_the_launcher_is_used(monkeypatch, torchrun):
    """With `accelerate launch --deepspeed_config_file`, and another `--deepspeed` is refused."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", ZERO2)
    values = {"deepspeed": None}
    prepare_deepspeed(values)
    assert values["deepspeed"]["zero_optimization"]["stage"] == 2
    with pytest.raises(ValueError, match="name one JSON"):
        prepare_deepspeed({"deepspeed": str(CONFIGS[0])})
