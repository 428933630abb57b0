"""What this machine can do: precision, cores, peak FLOP/s."""

import functools
import logging
import math
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def has_bfloat16(on_cpu: bool) -> bool:
    """Whether the hardware multiplies bfloat16 matrices natively; emulation is slower than float32."""
    import torch

    if on_cpu:
        capabilities = torch.cpu.get_capabilities()
        return capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def share_cores() -> None:
    """Set the number of threads of this CPU rank to its share of the cores, if a launcher set OMP_NUM_THREADS to 1.

    `accelerate launch` and torchrun do so by default, and a run of one rank would use one core.
    """
    import torch

    launched = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    if launched and os.environ.get("OMP_NUM_THREADS") == "1":
        threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        torch.set_num_threads(threads)
        logger.info(f"CPU ranks: {os.environ.get('WORLD_SIZE', 1)}; threads of each: {threads}")


# Dense bfloat16 FLOP/s by a part of the device's name, from NVIDIA's data sheets.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}


def peak_flops(device: "torch.device", bf16: bool) -> tuple[float, str]:
    """Peak FLOP/s of a device, from its data sheet or else measured on a matrix product, and the source."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for part, peak in PEAK_FLOPS.items():
        if part in name:
            return peak, f"{name}, data sheet"
    dtype = torch.bfloat16 if bf16 else torch.float32
    return measure_flops(device, dtype), f"{name}, {dtype} matrix product measured here"


@functools.cache
def measure_flops(device: "torch.device", dtype: "torch.dtype") -> float:
    """FLOP/s of a matrix product, the best of five, measured once in a process."""
    import torch

    size, best = 1024, math.inf
    a = torch.ones(size, size, dtype=dtype, device=device)
    for _ in range(5):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
