"""How fast a training starts from a token folder, against tokenizing the text anew; memory with ten times the data.

python benchmarks/token_folder.py --megabytes 200

Runs of recipes/pretrain.py with a small model, in new processes with an empty cache of `datasets`, alternating. The
first step is counted from after the imports; the data is to read, tokenize, pack and hash the text, or to open and
check the folder. Memory is that of the process after the last step: its own (anonymous), and resident, which also
counts pages of mapped files that the system may drop at any time.
"""

import argparse
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preparation import write_corpus

RECIPES = Path(__file__).parent.parent / "recipes"
MODEL = "hidden_size=64,intermediate_size=128,num_hidden_layers=2,num_attention_heads=2,num_key_value_heads=2"
LENGTH = 1024


def train(arguments: list[str]) -> None:
    """Run the recipe in this process.

    Prints the seconds that the data took, those until the first step, and the memory in MB after the last one.
    """
    import deepspeed
    import transformers

    import hf_llm.publishing.hub
    from hf_llm.data import sources
    from hf_llm.models.isolation import CheckAttention
    from hf_llm.training import facts, objectives

    assert deepspeed and CheckAttention and hf_llm  # imported before the clock starts
    start, times = time.perf_counter(), {"data": 0.0}

    def timed(function):
        def call(*args, **kwargs):
            began = time.perf_counter()
            result = function(*args, **kwargs)
            times["data"] += time.perf_counter() - began
            return result

        return call

    for module, name in ((sources, "load_splits"), (objectives, "tokenize_and_pack"), (facts, "row_facts")):
        setattr(module, name, timed(getattr(module, name)))
    original_step = transformers.Trainer.training_step

    def training_step(*args, **kwargs):
        times.setdefault("first step", time.perf_counter() - start)
        return original_step(*args, **kwargs)

    transformers.Trainer.training_step = training_step

    def on_train_end(*args):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        memory = [int(status[name].split()[0]) / 1000 for name in ("RssAnon", "VmRSS")]
        print("\nmeasured", *times.values(), *memory, file=sys.stderr, flush=True)
        os._exit(0)  # the evaluation that follows takes minutes

    transformers.trainer_callback.CallbackHandler.on_train_end = on_train_end
    sys.argv = [str(RECIPES / "pretrain.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def run(script: Path, arguments: list, folder: Path) -> list[float]:
    """Run a script with an empty cache; return what it measured."""
    environment = os.environ | {"HF_HOME": tempfile.mkdtemp(dir=folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr[-2000:])
    found = [line.split()[1:] for line in result.stderr.splitlines() if line.startswith("measured")]
    return [float(value) for value in found[0]] if found else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "text", args.megabytes)
        data = ["--train_file", folder / "text", "--validation_fraction", 0.005, "--max_length", LENGTH]
        vocabulary = ["--train_file", sorted((folder / "text").iterdir())[0], "--max_train_samples", 3000]
        run(RECIPES / "train_tokenizer.py", [*vocabulary, "--output_dir", folder / "tokenizer"], folder)
        tokenizer = ["--tokenizer_name", folder / "tokenizer"]
        run(RECIPES / "tokenize_data.py", [*data, *tokenizer, "--output_dir", folder / "tokens"], folder)
        copies = [folder / f"tokens{number}" for number in range(10)]
        for copy in copies:
            subprocess.run(["cp", "-r", folder / "tokens", copy], check=True)
        small = [*tokenizer, "--config_overrides", MODEL, "--max_steps", 20, "--per_device_train_batch_size", 2]
        small += ["--save_strategy", "no", "--bf16", "false"]
        tokens = ["--train_file", folder / "tokens", "--max_length", LENGTH]
        sources = {"text": data, "tokens": tokens, "10 x tokens": ["--train_file", *copies, "--max_length", LENGTH]}
        print("| from | data, s | first step, s | own memory, MB | resident, MB |\n|---|---|---|---|---|")
        for number in range(args.runs):
            for source, flags in sources.items():
                output = ["--output_dir", folder / f"out-{source}-{number}".replace(" ", "")]
                ready, first, own, resident = run(Path(__file__), ["--train", *flags, *small, *output], folder)
                print(f"| {source} | {ready:.2f} | {first:.2f} | {own:,.0f} | {resident:,.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2:])
    else:
        main()
