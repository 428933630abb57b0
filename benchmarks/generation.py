"""Speed of generation in batches by hf_llm against `pipeline` prompt by prompt, and memory for few and many rows.

python benchmarks/generation.py --model_name_or_path outputs/pretrain_tiny
python benchmarks/generation.py --model_name_or_path FOLDER --task summarization --validation_file FILE.jsonl --rows 200
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from transformers import pipeline

from hf_llm.arguments import DataArguments, TaskArguments
from hf_llm.data.examples import encode_prompts
from hf_llm.data.prompting import Prompter
from hf_llm.data.rows import load_rows
from hf_llm.evaluation.generation import complete
from hf_llm.evaluation.scoring import evaluate_task
from hf_llm.models.loading import load_for_generation
from hf_llm.tasks import load_task


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--task", default="translation")
    parser.add_argument("--validation_file")
    parser.add_argument("--rows", type=int, default=200, help="Number of prompts that both complete.")
    parser.add_argument("--rounds", type=int, default=4, help="Number of groups of prompts; the two alternate on each.")
    parser.add_argument("--max_new_tokens", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument(
        "--memory_rows", type=int, nargs="*", default=[400, 4000], help="For the memory; no value: skip."
    )
    parser.add_argument("--evaluate", type=int, help="Only evaluate this many rows, and print the peak bytes.")
    return parser.parse_args()


def load(args, limit):
    """The model in float32, so that the texts of both are comparable, and `limit` rows, repeated if there are fewer."""
    task = load_task(args.task, max_new_tokens=args.max_new_tokens)
    files = [args.validation_file] if args.validation_file else None
    rows = load_rows(DataArguments(validation_file=files), TaskArguments(task=args.task), task, seed=42)["validation"]
    rows = rows.select([i % len(rows) for i in range(limit)])
    return *load_for_generation(args.model_name_or_path, dtype="float32"), task, rows


def compare_speed(args):
    """Print how many times as fast hf_llm is in each round, and how many texts are equal."""
    model, tokenizer, task, rows = load(args, args.rows)
    prompter = Prompter(tokenizer, task, max_length=model.config.max_position_embeddings)
    prompts = [tokenizer.decode(ids) for ids in encode_prompts(rows, prompter)[0]["prompt"]]
    one_by_one = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options = {"max_new_tokens": args.max_new_tokens, "do_sample": False}
    seconds, same = {"hf_llm": 0.0, "pipeline": 0.0}, 0
    for start in range(args.rounds):
        group = prompts[start :: args.rounds]
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in group]
        begun = time.perf_counter()
        ours = complete(model, tokenizer, ids, batch_size=args.batch_size, show_progress=False, **options)
        between = time.perf_counter()
        theirs = [one_by_one(text, return_full_text=False, add_special_tokens=False, **options) for text in group]
        ended = time.perf_counter()
        seconds["hf_llm"] += between - begun
        seconds["pipeline"] += ended - between
        same += sum(a == b[0]["generated_text"] for a, b in zip(ours, theirs, strict=True))
        print(f"round {start + 1}: pipeline / hf_llm = {(ended - between) / (between - begun):.1f}", flush=True)
    ratio = seconds["pipeline"] / seconds["hf_llm"]
    print(f"{len(prompts)} prompts: {ratio:.1f} times as fast as one by one; {same} texts are equal")


def measure_memory(args):
    """Print the peak memory of an evaluation, each in its own process."""
    peaks = {}
    for number in args.memory_rows:
        run = [sys.executable, *sys.argv, "--evaluate", str(number)]
        peaks[number] = json.loads(
            subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        )
        print(f"evaluation of {number} rows: peak {peaks[number] / 1e6:,.0f} MB", flush=True)
    if len(peaks) == 2:
        few, many = peaks.values()
        print(f"{(many / few - 1):+.1%}")


def evaluate(args):
    """Evaluate the model and print the peak memory of this process in bytes."""
    model, tokenizer, task, rows = load(args, args.evaluate)
    evaluate_task(model, tokenizer, task, rows, batch_size=args.batch_size, show_progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main():
    args = parse()
    if args.evaluate:
        evaluate(args)
        return
    compare_speed(args)
    measure_memory(args)


if __name__ == "__main__":
    main()
