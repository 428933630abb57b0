"""The processes of a run: started where no launcher did, on GPUs or on the CPU, and ended."""

import os
import socket
import sys
import warnings
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import get_int_from_env

from hf_llm.mappings import read_json

LAUNCH = "accelerate launch --use_deepspeed --num_processes {} {} ..."


def set_up_ranks(on_cpu: bool, asked_for_cpu: bool) -> None:
    """Stop where a launcher is missing or starts too few; on one device, make this process the only rank."""
    script = sys.argv[0]
    if asked_for_cpu and not on_cpu:
        command = LAUNCH.format(2, script)
        raise ValueError(
            f"`--use_cpu` does not move DeepSpeed off the GPUs: hide them, CUDA_VISIBLE_DEVICES= {command}"
        )
    if "RANK" in os.environ:
        return
    if on_cpu and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise ValueError(
            "`accelerate launch` without `--use_deepspeed` starts one process on CPU, whatever `--num_processes` "
            f"says: {LAUNCH.format(2, script)}"
        )
    mpi_ranks = get_int_from_env(["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"], 1)
    ranks = max(mpi_ranks, 1 if on_cpu else torch.accelerator.device_count())
    if ranks > 1:
        raise ValueError(
            f"`--deepspeed` on {ranks} devices needs a launcher: {LAUNCH.format(ranks, script)} (to use one of them: "
            f"CUDA_VISIBLE_DEVICES=0 python {script} ...)"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)


def use_cpu_ranks(config: dict[str, Any], values: dict[str, Any]) -> None:
    """Start gloo, and change what is meant for GPUs."""
    if values.get("fp16"):
        raise ValueError("`--fp16` needs a GPU: on CPU ranks use `--bf16`, or float32")
    os.environ.update(DS_ACCELERATOR="cpu", ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_USE_CPU="false")
    import deepspeed

    # Shared-memory collectives serve tensor-parallel inference only, and want a compiler and a minute at first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(backend="gloo", timeout=timedelta(seconds=values.get("ddp_timeout", 1800)))
    _, accelerator_config = read_json(values.get("accelerator_config") or {}, "--accelerator_config")
    values["accelerator_config"] = accelerator_config | {"use_configured_state": True}
    # Beside a configured state use_cpu cannot switch DeepSpeed off; it lets bf16 through and pins no memory.
    values["use_cpu"] = True
    # DeepSpeed calls gloo by names that torch calls outdated, with a line on stderr at every call.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    config["zero_optimization"]["overlap_comm"] = False  # needs streams
    # The weights are on the CPU anyway: torch's AdamW needs no compiler, as DeepSpeedCPUAdam does.
    config.setdefault("zero_force_ds_cpu_optimizer", False)


def shut_down() -> None:
    """Part from the other ranks, as the last act of a run that went well: a process group that outlives the
    interpreter may abort a finished run. Not for `finally`: a rank that failed would leave the others waiting here.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
