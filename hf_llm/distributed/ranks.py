"""The processes of a DeepSpeed run: checked, set up without a launcher, moved to the CPU, and ended."""

import argparse
import os
import socket
import warnings
from datetime import timedelta
from typing import Any

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import get_int_from_env

from hf_llm.mappings import read_json_object

LAUNCH = "accelerate launch --use_deepspeed --num_processes {} {} ..."  # ranks, script


def check_launch(on_cpu: bool, asked_for_cpu: bool, script: str) -> None:
    """Refuse a launch that would start too few ranks, or that would use the GPUs against the user's wish.

    Args:
        on_cpu: whether there is no GPU.
        asked_for_cpu: `--use_cpu`, or `--cpu` of the launcher.
        script: named in the commands that the messages suggest.

    Raises:
        ValueError: the message has the command to use instead.
    """
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


def check_started_processes(on_cpu: bool, script: str) -> None:
    """Refuse several processes of `accelerate launch` on CPU, of which it starts only one.

    It hands their number to nobody, so that it is read from the command line of the launcher, this process's parent.

    Raises:
        ValueError: the message has a command that starts them.
    """
    launcher = psutil.Process().parent()
    if "RANK" in os.environ or not on_cpu or "ACCELERATE_MIXED_PRECISION" not in os.environ or launcher is None:
        return
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--num_processes", "--num-processes", type=int, default=1)
    asked = parser.parse_known_args(launcher.cmdline())[0].num_processes
    if asked > 1:
        raise ValueError(
            f"`accelerate launch --num_processes {asked}` starts one process on CPU: use torchrun --nproc_per_node "
            f"{asked} {script} ..."
        )


def set_single_rank() -> None:
    """Set the environment variables by which this process is the only rank, unless a launcher has set its own."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)


def set_up_cpu_ranks(config: dict[str, Any], values: dict[str, Any]) -> None:
    """Start the process group over gloo, and replace in place the settings that need a GPU.

    Args:
        config: the DeepSpeed JSON object.
        values: field values of `TrainingArguments`; `ddp_timeout` is in seconds.

    Raises:
        ValueError: `--fp16`.
    """
    if values.get("fp16"):
        raise ValueError("`--fp16` needs a GPU: on CPU ranks use `--bf16`, or float32")
    os.environ.update(DS_ACCELERATOR="cpu", ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_USE_CPU="false")
    import deepspeed

    # Shared-memory collectives are for tensor-parallel inference, and are compiled for a minute at first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(backend="gloo", timeout=timedelta(seconds=values.get("ddp_timeout", 1800)))
    _, accelerator_config = read_json_object(values.get("accelerator_config") or {}, "--accelerator_config")
    values["accelerator_config"] = accelerator_config | {"use_configured_state": True}
    # With a configured state, use_cpu does not switch DeepSpeed off; it allows bf16 and pins no memory.
    values["use_cpu"] = True
    # DeepSpeed calls gloo by names that torch has deprecated, with a line on stderr at every call.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    config["zero_optimization"]["overlap_comm"] = False  # needs streams
    # The weights are on the CPU anyway, and torch's AdamW needs no compiler, unlike DeepSpeedCPUAdam.
    config.setdefault("zero_force_ds_cpu_optimizer", False)


def shut_down() -> None:
    """Wait for the other ranks and end the process group: one that outlives the interpreter may abort a finished run.

    Call it last, and not in a `finally` block: a rank that failed would make the others wait here.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
