"""Everything that only a GPU can show, in nine minutes: speed, isolation of packed documents, ZeRO, memory, generation.

python benchmarks/gpu.py --output_dir outputs/gpu                    on one GPU
python benchmarks/gpu.py --output_dir outputs/gpu --parts pretraining,zero
python benchmarks/gpu.py --device cpu --tiny                         all of it in small, without a GPU

On a machine without a network, `benchmarks/gpu_wheels.sh` brings the packages. Weights and tokens are random, and
nothing is downloaded. Each row of the table is measured in a process of its own with a time limit: an error, a crash,
too little memory or the end of the time cost that row only. The parts run in the order of PARTS, each within its share
of the time; what a part had no time for comes last. `gpu.json` and `gpu.md` are written anew after every row.

Model FLOPs utilisation is FLOPs a token x tokens a second / 989e12 (H100 and H200, dense bfloat16, data sheet), with

    full attention     6 N + 12 L H Q A FLOPs a token, forward and backward
    causal attention   6 N +  6 L H Q A, where what the causal mask hides is not counted

N the parameters without the embedding lookup (with the head, tied or not), L layers, H heads of size Q, and A the mean
length of the document that a token is in: 2,048 in rows of one document. Recomputation is not counted.
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

# A process that has asked the GPU anything cannot fork others that use it: the driver's library answers instead.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
for variable, value in {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "DS_BUILD_OPS": "0"}.items():
    os.environ.setdefault(variable, value)

PARTS = {  # seconds of each of nine minutes
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
        if settings.keys() & {"activation_checkpointing", "loss"}:  # they leave room for more
            cell["batches"] = [2 * batches[model][0], *batches[model][:2]]
        if limit == 90 or settings.get("attention") == "varlen" or settings.get("loss") == "Liger":
            cell["needs_gpu"] = True
        cells.append(cell)
    cells[0]["limit"] = 60  # the first has a machine to warm up
    return cells


def all_cells() -> dict[str, list[dict]]:
    """The cells of each part: model, settings, micro-batches to try from the largest on, and seconds at most."""
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


WORDS = {"by": "{}", "data": "{}", "attention": "{} attention", "loss": "{} loss", "length": "{} tokens"}


def in_words(settings: dict) -> str:
    """`{"by": "hf_llm", "attention": "varlen"}` -> `hf_llm, varlen attention`."""
    if "stage" in settings:
        return f"ZeRO-{settings['stage']}" if settings["stage"] else "no DeepSpeed"
    words = [WORDS[name].format(value) for name, value in settings.items() if name in WORDS]
    return ", ".join(words + [name.replace("_", " ") for name, value in settings.items() if value is True])


class Table:
    """The results so far, on the screen and in two files that are always complete."""

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
        what = [row["part"], row["model"], in_words(row["settings"]), str(row["batch"])]
        return f"| {' | '.join([*what, rate, *shares, peak, note, seconds])} |"

    def write(self, name: str, text: str) -> None:
        beside = self.folder / f".{name}"
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, self.folder / name)


def work(answers, log: str, job: tuple) -> None:
    """Runs in a process of its own: measure one cell, with all that is printed in the log."""
    os.setsid()  # so that its own processes end with it
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
    answers.send(result)
    answers.close()
    sys.stdout.flush()
    os._exit(0)  # threads of compilers and data loaders need not end in order


def run_apart(context, target, arguments: tuple, limit: float) -> dict:
    """The answer of a process, or what became of it."""
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(writer, *arguments))
    process.start()
    writer.close()
    try:
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
        fitted: largest micro-batch of earlier cells with the same model and choice; larger ones are not tried again.
    """
    begun, choice = time.monotonic(), (cell["part"], cell["model"], *cell["batches"])
    if args.device == "cpu" and cell.get("needs_gpu"):
        return {"batch": "", "note": "needs a GPU", "seconds": 0}
    for batch in [2] if args.tiny else [size for size in cell["batches"] if size <= fitted.get(choice, size)]:
        left = limit - (time.monotonic() - begun)
        job = (cell["part"], args.device, args.tiny, shared, batch, {"model": cell["model"]} | cell["settings"])
        result = run_apart(context, work, (log, job), left)
        if not result.pop("out_of_memory", False):
            if "failed" not in result:
                fitted[choice] = batch
            break
        result = {"note": "out of memory", "failed": True}
    return {"batch": batch, **result, "seconds": time.monotonic() - begun}


def probe(answers) -> None:
    """Runs in a process of its own: which GPU there is, and that this process may use it."""
    import torch

    ones = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
    (ones @ ones).sum().item()  # loads the large libraries, which the first cell need not wait for then
    answers.send({"device": torch.cuda.get_device_name(), "GiB": round(torch.cuda.mem_get_info()[1] / 2**30, 1)})


def start(device: str):
    """How processes are started, and what they run on.

    Forked ones have all imports already. That works while this process has not used the GPU, as an import might: then
    fewer are imported, and if that does not help either each process imports all anew.
    """
    import_module("gpu_parts")
    fork = multiprocessing.get_context("fork")
    if device == "cpu":
        import_module("deepspeed")
        return fork, {"device": "cpu"}
    about = run_apart(fork, probe, (), 120)
    if "device" in about and FEWER_IMPORTS not in os.environ:
        import_module("deepspeed")  # which every Trainer imports
        if "device" not in run_apart(fork, probe, (), 120):
            os.environ[FEWER_IMPORTS] = "1"
            os.execv(sys.executable, [sys.executable, *sys.argv])
    if "device" in about:
        return fork, about | {"processes": "fork"}
    spawn = multiprocessing.get_context("spawn")
    about = run_apart(spawn, probe, (), 120)
    if "device" not in about:
        fail(f"the GPU cannot be used: {about['note']}")
    return spawn, about | {"processes": "spawn"}


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/gpu", help="gets gpu.md, gpu.json and gpu.log")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas; default: all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of two small layers, short rows, few steps")
    parser.add_argument("--minutes", type=float, default=9, help="after which no cell runs any more")
    parser.add_argument("--check_imports", action="store_true", help="only import what the cells need")
    args = parser.parse_args()
    args.parts = [part.strip() for part in args.parts.split(",") if part.strip()]
    if unknown := [part for part in args.parts if part not in PARTS]:
        fail(f"`--parts` {', '.join(unknown)}: there is no such part; the parts are {', '.join(PARTS)}")
    return args


def check_imports() -> None:
    """Import what the cells import, and print the versions."""
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
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def main():
    begun, args = time.monotonic(), parse()
    os.environ["DS_ACCELERATOR"] = args.device
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if args.check_imports:
        return check_imports()
    if args.device == "cuda" and not torch.cuda.is_available():
        fail("there is no GPU here: add `--device cpu --tiny` to try all of it without one")
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the process at work ends too
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    log = str(folder / "gpu.log")
    Path(log).unlink(missing_ok=True)
    context, about = start(args.device)
    about |= {"date": datetime.date.today().isoformat()} | {name: version(name) for name in PACKAGES}
    table, deadline = Table(folder, about), begun + 60 * args.minutes
    with tempfile.TemporaryDirectory(dir=roomy_folder()) as shared:
        left, fitted = {part: all_cells()[part] for part in args.parts}, {}
        for last in (False, True):  # at last, what its part had no time for
            for part, cells in left.items():
                end = deadline if last else time.monotonic() + PARTS[part] * args.minutes / 9
                for cell in list(cells):
                    limit = min(cell["limit"], min(deadline, end + 20) - time.monotonic())
                    if time.monotonic() < end and limit >= cell["limit"] / 2:
                        cells.remove(cell)
                        table.add(cell, run_cell(context, args, log, shared, cell, limit, fitted))
        for cell in [cell for cells in left.values() for cell in cells]:
            table.add(cell, {"batch": "", "note": "not run: the time was over", "seconds": 0})


def roomy_folder() -> str | None:
    """Memory where there is enough of it: models are saved as at the end of a real run, and the disk may be slow."""
    folder = "/dev/shm"
    return folder if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 24e9 else None


if __name__ == "__main__":
    main()
