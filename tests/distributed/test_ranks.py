"""A launch that would not run DeepSpeed on the ranks that were asked for is refused with the command to use."""

import pytest
import torch

from hf_llm.distributed.deepspeed_config import prepare_deepspeed

pytestmark = pytest.mark.usefixtures("no_launcher")
CONFIG = {"zero_optimization": {"stage": 2}}


def test_several_gpus_without_a_launcher_get_the_command(monkeypatch):
    """The command starts the same script with one rank for each GPU."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    with pytest.raises(ValueError, match=r"accelerate launch --use_deepspeed --num_processes 4 train.py"):
        prepare_deepspeed({"deepspeed": CONFIG}, script="train.py")


def test_use_cpu_on_a_machine_with_a_gpu_is_refused(monkeypatch, torchrun):
    """DeepSpeed would use the GPUs; the command hides them."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES= accelerate launch"):
        prepare_deepspeed({"deepspeed": CONFIG, "use_cpu": True})


@pytest.mark.parametrize(
    "environment, complaint",
    [
        ({"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}, "starts one process on CPU"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "on 2 devices needs a launcher"),
    ],
)
def test_a_launch_with_too_few_ranks_is_refused(monkeypatch, environment, complaint):
    """`accelerate launch --cpu` starts one process; mpirun starts processes that DeepSpeed does not connect."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=complaint):
        prepare_deepspeed({"deepspeed": CONFIG})
