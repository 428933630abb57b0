"""Ranks share the cores of a machine, and the peak rate of a device is known or measured."""

import os

import pytest
import torch

from hf_llm.hardware import has_bfloat16, peak_flops, share_cores


@pytest.mark.parametrize("launcher", ["ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", None])
def test_ranks_share_the_cores_if_a_launcher_set_one_thread(launcher, monkeypatch):
    """A user's own OMP_NUM_THREADS, without a launcher, is not changed."""
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    if launcher:
        monkeypatch.setenv(launcher, "x")
    share_cores()
    assert threads == ([3] if launcher else [])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    share_cores()
    assert len(threads) == bool(launcher)


def test_the_peak_of_a_gpu_is_that_of_its_data_sheet(monkeypatch):
    """The H100 PCIe is slower than the other H100 cards."""
    for name, expected in {
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA A100-SXM4": 312e12,
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda"), bf16=True) == (expected, f"{name}, data sheet")


@pytest.mark.parametrize("bf16, dtype", [(False, "torch.float32"), (True, "torch.bfloat16")])
def test_the_peak_of_an_unknown_device_is_measured(bf16, dtype):
    """On a matrix product in the precision of the run."""
    flops, source = peak_flops(torch.device("cpu"), bf16)
    assert flops > 1e6 and source == f"cpu, {dtype} matrix product measured here"


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_a_cpu_has_bfloat16_if_it_multiplies_it_natively(capabilities, monkeypatch):
    """Emulation would be slower than float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bfloat16(on_cpu=True) is bool(capabilities)
