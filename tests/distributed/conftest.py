"""Environments for the tests: without a launcher, or with the variables of one rank, on a machine without a GPU."""

import os

import pytest
import torch

from hf_llm.distributed import deepspeed_config

RANK = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Make the environment that of a process without a launcher on a machine without a GPU."""
    for name in [*RANK, *(name for name in os.environ if name.startswith(("ACCELERATE_", "OMPI_", "PMI_")))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(deepspeed_config, "set_up_cpu_ranks", lambda config, values: None)


@pytest.fixture
def rank(monkeypatch):
    """Set the environment variables that torchrun sets for the first of two ranks."""
    for name, value in RANK.items():
        monkeypatch.setenv(name, value)
