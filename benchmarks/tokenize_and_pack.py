"""Speed of tokenizing and packing against the grouping of run_clm.py, on the same text, alternating.

    python benchmarks/tokenize_and_pack.py
    python benchmarks/tokenize_and_pack.py --tokenizer_name FOLDER --megabytes 20 --rounds 5

The text is Python source of this machine's installed packages: real text, of which nothing is repeated.
"""

import argparse
import statistics
import sysconfig
import time
from itertools import chain
from pathlib import Path

import datasets
from datasets import Dataset
from transformers import AutoTokenizer

from hf_llm.data.arrow import count_tokens
from hf_llm.data.packing import pack
from hf_llm.data.tokenization import fastokens_engine, tokenize, tokenizer_engine
from hf_llm.data.vocabulary import train_tokenizer


def local_documents(megabytes: float) -> list[str]:
    """Source files of the installed packages, up to `megabytes`."""
    documents, size = [], 0
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        data = path.read_bytes()
        if not 500 < len(data) < 200_000:
            continue
        documents.append(data.decode("utf-8", "ignore"))
        size += len(data)
        if size > megabytes * 1e6:
            break
    return documents


def group_like_run_clm(dataset: Dataset, tokenizer, max_length: int) -> tuple[Dataset, int]:
    """Tokenize with `map`, then concatenate each batch of 1,000 documents and cut it, dropping its remainder."""
    tokenized = dataset.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns=["text"])

    def group(rows):
        joined = {key: list(chain(*values)) for key, values in rows.items()}
        end = len(joined["input_ids"]) // max_length * max_length
        grouped = {
            key: [values[i : i + max_length] for i in range(0, end, max_length)] for key, values in joined.items()
        }
        grouped["labels"] = grouped["input_ids"].copy()
        return grouped

    return tokenized.map(group, batched=True), count_tokens(tokenized)


def timed(function, *args):
    """Call a function; return the seconds that it took, and its result."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer_name", help="Default: a BPE of 16,384 entries, trained on a tenth of the text.")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    datasets.disable_progress_bars()

    documents = local_documents(args.megabytes)
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    tokenizer = (
        AutoTokenizer.from_pretrained(args.tokenizer_name)
        if args.tokenizer_name
        else train_tokenizer(documents[::10], 16384)
    )
    times = {"hf_llm": [], "run_clm grouping": [], "engine only": [], "tokenizer only": []}
    for _ in range(args.rounds):
        # A new dataset each time, which is not in a cache.
        seconds, (rows, report) = timed(
            lambda: pack(tokenize(Dataset.from_dict({"text": documents}), tokenizer), args.max_length)
        )
        times["hf_llm"].append(seconds)
        seconds, (grouped, tokens) = timed(
            group_like_run_clm, Dataset.from_dict({"text": documents}), tokenizer, args.max_length
        )
        times["run_clm grouping"].append(seconds)
        times["engine only"].append(timed(fastokens_engine(tokenizer), documents)[0])
        times["tokenizer only"].append(timed(tokenizer_engine(tokenizer), documents)[0])

    print(f"{megabytes:.1f} MB, {len(documents)} documents, {report.tokens_in:,} tokens, rows of {args.max_length}\n")
    print("| | tokens/s (median) | against run_clm's grouping |\n|---|---|---|")
    base = statistics.median(times["run_clm grouping"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {report.tokens_in / median / 1e6:.2f} M | {base / median:.1f} x |")
    ratios = [b / a for a, b in zip(times["hf_llm"], times["run_clm grouping"], strict=True)]
    share = statistics.median(times["engine only"]) / statistics.median(times["hf_llm"])
    kept = count_tokens(grouped)
    print(f"\nratio in each round: {', '.join(f'{ratio:.1f}' for ratio in ratios)}")
    print(f"share of the raw engine's speed: {share:.0%}")
    print(f"tokens dropped: hf_llm {report.tokens_dropped}; run_clm's grouping {tokens - kept:,} of {tokens:,}")
    print(f"packing efficiency: {report.packing_efficiency:.2%}, {len(rows):,} rows")


if __name__ == "__main__":
    main()
