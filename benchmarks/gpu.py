"""What only a GPU can measure, in nine minutes: speed, isolation of packed documents, ZeRO, memory, generation.

python benchmarks/gpu.py --output_dir outputs/gpu                    on one GPU
python benchmarks/gpu.py --output_dir outputs/gpu --parts pretraining,zero
python benchmarks/gpu.py --device cpu --tiny                         small models, without a GPU

On a machine without a network, `benchmarks/gpu_wheels.sh` installs the packages. Weights and tokens are random, and
nothing is downloaded. Each row of the table is measured in its own process with a time limit, so that an error, a
crash, a lack of memory or a timeout affects only that row. The parts run in the order of PARTS, each within its share
of the time; rows that did not fit in their share come last. `gpu.json` and `gpu.md` are rewritten after every row.

Model FLOPs utilisation is FLOPs per token x tokens per second / 989e12 (H100, H200: dense bfloat16, data sheet), with

    full attention     6 N + 12 L H Q A FLOPs per token, forward and backward
    causal attention   6 N +  6 L H Q A, without the FLOPs that the causal mask makes unnecessary

where N is the number of parameters without the embedding lookup (with the head, tied or not), L the number of layers, H
the number of heads of size Q, and A the length of the document that a token is in, averaged over the tokens: 2,048 in
rows of one document. Recomputation is not counted.
"""

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from importlib import import_module, metadata
from multiprocessing.connection import wait
from pathlib import Path

# A process that has used CUDA cannot fork others that use it; with this, NVML answers whether there is a GPU.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
for variable, value in {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "DS_BUILD_OPS": "0"}.items():
    os.environ.setdefault(variable, value)

PARTS = {  # seconds of each part, of nine minutes in all
    "pretraining": 250,
    "finetuning": 70,
    "attention": 40,
    "zero": 45,
    "memory": 75,
    "generation": 50,
}
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "trl", "liger-kernel", "datasets", "triton")
FEWER_IMPORTS = "GPU_BENCHMARK_FEWER_IMPORTS"
COLUMNS = ("part", "model", "setting", "batch", "rate", "MFU causal", "MFU full", "peak GiB", "note", "s")


def pretraining_cells() -> list[dict]:
    """The cells of the part `pretraining`; see `all_cells`."""
    gpt2, small, large = "GPT-2 124M", "Llama 350M", "Llama 1B"
    batches = {gpt2: [32, 16, 8], small: [16, 8, 4], large: [8, 4, 2]}
    runs = [
        (gpt2, {}),
        (gpt2, {"by": "Trainer"}),
        (gpt2, {"by": "loop"}),
        (large, {}),
        (large, {"by": "Trainer"}),
        (large, {"by": "loop"}),
        (small, {}),
        (small, {"by": "Trainer"}),
        (small, {"by": "loop"}),
        (small, {"attention": "varlen"}),
        (large, {"attention": "varlen"}),
        (large, {"loss": "Liger"}),
        (large, {"loss": "Liger", "attention": "varlen"}),
        (gpt2, {"attention": "varlen", "loss": "chunked"}),
        (small, {"one_document": True}),
        (gpt2, {"by": "Trainer", "torch_compile": True}),
        (gpt2, {"torch_compile": True}),
        (small, {"loss": "chunked"}),
        (small, {"loss": "Liger"}),
        (large, {"activation_checkpointing": True}),
        (large, {"activation_checkpointing": True, "loss": "Liger", "attention": "varlen"}),
        (gpt2, {"one_document": True}),
        (small, {"attention": "flex_attention"}),
        (small, {"attention": "eager"}),
    ]
    cells = []
    for model, settings in runs:
        limit = 90 if settings.get("torch_compile") or settings.get("attention") == "flex_attention" else 40
        settings = {"by": "hf_llm"} | settings
        cell = {"model": model, "batches": batches[model], "settings": settings, "limit": limit}
        if settings.keys() & {"activation_checkpointing", "loss"}:  # these need less memory
            cell["batches"] = [2 * batches[model][0], *batches[model][:2]]
        if limit == 90 or settings.get("attention") == "varlen" or settings.get("loss") == "Liger":
            cell["needs_gpu"] = True
        cells.append(cell)
    cells[0]["limit"] = 60  # the first one includes the start of the machine
    return cells


def all_cells() -> dict[str, list[dict]]:
    """The cells of each part, which become rows of the table.

    Each has a model, settings, micro-batches to try in this order, and a time limit in seconds.
    """
    finetuning = [
        {"model": model, "settings": {"data": data, "by": by, "lora": lora}, "batches": [16, 8]}
        for model, data, lora in (
            ("Llama 350M", "SQuAD", False),
            ("Llama 350M", "BANKING77", False),
            ("Llama 1B", "SQuAD", True),
        )
        for by in ("packed", "padded", "TRL")
    ]
    attention = [
        {"model": model, "settings": {"attention": name}, "batches": [1]}
        for model, name in (
            ("Llama 350M", "sdpa"),
            ("Llama 350M", "varlen"),
            ("GPT-2 124M", "sdpa"),
            ("Llama 350M", "eager"),
            ("Llama 350M", "flex_attention"),
            ("Llama 350M", "flash_attention_2"),
        )
    ]
    zero = [{"model": "Llama 350M", "settings": {"stage": stage}, "batches": [4]} for stage in (None, 2, 3)]
    sizes = {"GPT-2 124M": 8, "Llama 350M": 4, "Llama 1B": 2, "Llama 3B": 1}
    memory = [
        {"model": model, "settings": {"length": length} | options, "batches": [sizes[model]]}
        for model, options in (
            ("Llama 1B", {}),
            ("Llama 1B", {"checkpointing": True}),
            ("Llama 3B", {"checkpointing": True}),
            ("Llama 3B", {"checkpointing": True, "lora": True}),
            ("GPT-2 124M", {}),
            ("Llama 350M", {}),
        )
        for length in (1024, 4096)
    ]
    generation = [
        {"model": model, "settings": {"by": by}, "batches": [batch]}
        for model, batch in (("Llama 350M", 64), ("Llama 350M", 16), ("Llama 1B", 64), ("Llama 350M", 192))
        for by in ("hf_llm", "pipeline")
    ]
    parts = {
        "pretraining": pretraining_cells(),
        "finetuning": finetuning,
        "attention": attention,
        "zero": zero,
        "memory": memory,
        "generation": generation,
    }
    for part, cells in parts.items():
        for cell in cells:
            cell |= {"part": part, "limit": cell.get("limit", 40)}
            if cell["settings"].get("attention") in ("varlen", "flex_attention", "flash_attention_2"):
                cell["needs_gpu"] = True
    return parts


SETTING_FORMATS = {"by": "{}", "data": "{}", "attention": "{} attention", "loss": "{} loss", "length": "{} tokens"}


def describe_settings(settings: dict) -> str:
    """Describe the settings of a cell: `{"by": "hf_llm", "attention": "varlen"}` -> `hf_llm, varlen attention`."""
    if "stage" in settings:
        return f"ZeRO-{settings['stage']}" if settings["stage"] else "no DeepSpeed"
    words = [SETTING_FORMATS[name].format(value) for name, value in settings.items() if name in SETTING_FORMATS]
    return ", ".join(words + [name.replace("_", " ") for name, value in settings.items() if value is True])


class Table:
    """Prints the results so far, and writes them to two files that are always complete."""

    def __init__(self, folder: Path, about: dict):
        self.folder, self.about, self.rows = folder, about, []
        print(self.header(), flush=True)

    def header(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self.about.items())
        return f"{about}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"

    def add(self, cell: dict, result: dict) -> None:
        row = {key: cell[key] for key in ("part", "model", "settings")} | result
        self.rows.append(row)
        self.write("gpu.json", json.dumps({"about": self.about, "rows": self.rows}, indent=1))
        self.write("gpu.md", "\n".join([self.header(), *map(self.line, self.rows)]))
        print(self.line(row), flush=True)

    def line(self, row: dict) -> str:
        rate = f"{row['rate']:,.{0 if row['rate'] > 100 else 1}f} {row['unit']}" if "rate" in row else ""
        shares = [f"{row[name]:.1%}" if name in row else "" for name in ("mfu_causal", "mfu_full")]
        peak = f"{row['peak_gib']:.1f}" if row.get("peak_gib") else ""
        note, seconds = str(row.get("note", "")).replace("|", "/"), f"{row['seconds']:.0f}"
        cells = [row["part"], row["model"], describe_settings(row["settings"]), str(row["batch"])]
        return f"| {' | '.join([*cells, rate, *shares, peak, note, seconds])} |"

    def write(self, name: str, text: str) -> None:
        temporary = self.folder / f".{name}"
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / name)


def measure_cell(results, log: str, job: tuple) -> None:
    """Measure one cell in its own process, whose output goes to the log, and send the result through a pipe."""
    os.setsid()  # a group of processes, which are killed together
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with open(log, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    print(f"\n== {job}", flush=True)
    try:
        result = import_module("gpu_parts").measure(*job)
    except BaseException as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        result = {"note": f"{type(error).__name__}: {lines[0][:160]}", "failed": True}
    results.send(result)
    results.close()
    sys.stdout.flush()
    os._exit(0)  # without waiting for threads of compilers and data loaders


def run_in_process(context, target, arguments: tuple, limit: float) -> dict:
    """Run a function in its own process; return the result that it sends, or a note of how the process ended.

    Args:
        target: called with the end of a pipe to send to, and `arguments`.
        limit: seconds after which the process is killed.
    """
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(writer, *arguments))
    # While a process is forked, Python ignores exceptions of callbacks, and so would ignore the exit at SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    process.start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        writer.close()
        wait([reader, process.sentinel], limit)
        if reader.poll():
            return reader.recv()
        if process.is_alive():
            return {"note": f"stopped after {limit:.0f} s", "failed": True}
        return {"note": f"ended with status {process.exitcode}", "failed": True}
    except EOFError:
        process.join(5)
        return {"note": f"ended with status {process.exitcode}", "failed": True}
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def run_cell(context, args, log: str, shared: str, cell: dict, limit: float, fitted: dict) -> dict:
    """Measure a cell with the largest of its micro-batches that fits.

    Args:
        fitted: largest micro-batch that fitted for earlier cells with the same model and micro-batches; larger ones are
            not tried again.
    """
    begun, key = time.monotonic(), (cell["part"], cell["model"], *cell["batches"])
    if args.device == "cpu" and cell.get("needs_gpu"):
        return {"batch": "", "note": "needs a GPU", "seconds": 0}
    for batch in [2] if args.tiny else [size for size in cell["batches"] if size <= fitted.get(key, size)]:
        left = limit - (time.monotonic() - begun)
        job = (cell["part"], args.device, args.tiny, shared, batch, {"model": cell["model"]} | cell["settings"])
        result = run_in_process(context, measure_cell, (log, job), left)
        if not result.pop("out_of_memory", False):
            if "failed" not in result:
                fitted[key] = batch
            break
        result = {"note": "out of memory", "failed": True}
    return {"batch": batch, **result, "seconds": time.monotonic() - begun}


def probe(results) -> None:
    """Use the GPU from another process, and send its name and memory through a pipe."""
    import torch

    ones = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
    (ones @ ones).sum().item()  # loads large libraries, so that the first cell does not wait for them
    results.send({"device": torch.cuda.get_device_name(), "GiB": round(torch.cuda.mem_get_info()[1] / 2**30, 1)})


def start(device: str):
    """Choose how processes are started, and describe the device.

    Forked processes have all imports already, but can use the GPU only if this process has not. If an import has used
    it, this program restarts with fewer imports; if that does not help, each process is spawned and imports everything.
    """
    import_module("gpu_parts")
    fork = multiprocessing.get_context("fork")
    if device == "cpu":
        import_module("deepspeed")
        return fork, {"device": "cpu"}
    about = run_in_process(fork, probe, (), 120)
    if "device" in about and FEWER_IMPORTS not in os.environ:
        import_module("deepspeed")  # which every Trainer imports
        if "device" not in run_in_process(fork, probe, (), 120):
            os.environ[FEWER_IMPORTS] = "1"
            os.execv(sys.executable, [sys.executable, *sys.argv])
    if "device" in about:
        return fork, about | {"processes": "fork"}
    spawn = multiprocessing.get_context("spawn")
    about = run_in_process(spawn, probe, (), 120)
    if "device" not in about:
        fail(f"the GPU cannot be used: {about['note']}")
    return spawn, about | {"processes": "spawn"}


def fail(message: str) -> None:
    """Print an error in one line and exit with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/gpu", help="folder of gpu.md, gpu.json and gpu.log")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas; default: all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use models of two small layers, short rows, few steps")
    parser.add_argument("--minutes", type=float, default=9, help="time limit of the whole run")
    parser.add_argument("--check_imports", action="store_true", help="only import what is needed, print versions")
    args = parser.parse_args()
    args.parts = [part.strip() for part in args.parts.split(",") if part.strip()]
    if unknown := [part for part in args.parts if part not in PARTS]:
        fail(f"`--parts` {', '.join(unknown)}: there is no such part; the parts are {', '.join(PARTS)}")
    return args


def check_imports() -> None:
    """Import what the cells import, and print the versions of the packages."""
    missing = []
    for name in ["gpu_parts", *import_module("gpu_parts").LATE_IMPORTS]:
        try:
            import_module(name)
        except Exception as error:
            missing.append(f"{name} ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})")
    if missing:
        fail(f"cannot be imported: {'; '.join(missing)}")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))


def version(name: str) -> str:
    """Version of a package, or `missing`."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def main():
    begun, args = time.monotonic(), parse()
    os.environ["DS_ACCELERATOR"] = args.device
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads cost such small models more than they save
    import torch

    if args.check_imports:
        return check_imports()
    if args.device == "cuda" and not torch.cuda.is_available():
        fail("there is no GPU here: add `--device cpu --tiny` to try all of it without one")
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also ends the process of the current cell
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    log = str(folder / "gpu.log")
    Path(log).unlink(missing_ok=True)
    context, about = start(args.device)
    about |= {"date": datetime.date.today().isoformat()} | {name: version(name) for name in PACKAGES}
    table, deadline = Table(folder, about), begun + 60 * args.minutes
    with tempfile.TemporaryDirectory(dir=roomy_folder()) as shared:
        left, fitted = {part: all_cells()[part] for part in args.parts}, {}
        for last in (False, True):  # the second time, the cells for which their part had no time
            for part, cells in left.items():
                end = deadline if last else time.monotonic() + PARTS[part] * args.minutes / 9
                for cell in list(cells):
                    limit = min(cell["limit"], min(deadline, end + 20) - time.monotonic())
                    if time.monotonic() < end and limit >= cell["limit"] / 2:
                        cells.remove(cell)
                        table.add(cell, run_cell(context, args, log, shared, cell, limit, fitted))
        for cell in [cell for cells in left.values() for cell in cells]:
            table.add(cell, {"batch": "", "note": "not run: the time limit was reached", "seconds": 0})


def roomy_folder() -> str | None:
    """A folder in memory if it has enough room, else None: models are saved to it, and the disk may be slow."""
    folder = "/dev/shm"
    return folder if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 24e9 else None


if __name__ == "__main__":
    main()
