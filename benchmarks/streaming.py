"""Speed of reading rows from a stream: hf_llm against the example scripts with a streamed dataset, alternating.

    python benchmarks/streaming.py --megabytes 60 --rounds 3

Both read one .jsonl file into rows of 1,024 tokens without training on them. In run_clm.py `datasets` streams the
documents, `map` tokenizes 1,000 of them at a time, and a second `map` concatenates and cuts them, dropping the
remainder of each batch.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import chain
from pathlib import Path

from datasets import load_dataset
from tokenize_and_pack import local_documents
from transformers import TrainingArguments

from hf_llm.arguments import PretrainArguments, TextArguments
from hf_llm.data.sources import load_splits
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.training.objectives import build_stream

LENGTH = 1024


def with_hf_llm(file: Path, tokenizer) -> tuple[int, int]:
    """Count the tokens in rows, and the dropped tokens."""
    data_args = TextArguments(
        train_file=[str(file)], validation_file=[str(file)], streaming=True, max_length=LENGTH, max_eval_samples=1
    )
    args = TrainingArguments("out", max_steps=1, use_cpu=True, report_to="none")
    rows = build_stream(load_splits(data_args, 0)["train"], tokenizer, data_args, PretrainArguments(), args)
    tokens = 0
    for row in rows.own_rows():
        if row["epoch"]:
            return tokens, 0
        tokens += len(row["input_ids"])


def with_run_clm(file: Path, tokenizer) -> tuple[int, int]:
    """Count the tokens in rows, and the dropped tokens, with the two `map` functions of run_clm.py."""
    tokens_in = 0

    def tokenize(rows):
        return {"input_ids": tokenizer(rows["text"], return_attention_mask=False).input_ids}

    def group(rows):
        nonlocal tokens_in
        ids = list(chain.from_iterable(rows["input_ids"]))
        tokens_in += len(ids)
        whole = len(ids) // LENGTH * LENGTH
        return {"input_ids": [ids[start : start + LENGTH] for start in range(0, whole, LENGTH)]}

    documents = load_dataset("json", data_files=str(file), split="train", streaming=True)
    rows = documents.map(tokenize, batched=True, remove_columns="text").map(group, batched=True)
    tokens = sum(len(row["input_ids"]) for row in rows)
    return tokens, tokens_in - tokens


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    documents = local_documents(options.megabytes)
    tokenizer, ratios = train_tokenizer(documents[::10], 16384), []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        for _ in range(options.rounds):
            rates = []
            for read in (with_hf_llm, with_run_clm):
                begun = time.perf_counter()
                tokens, dropped = read(file, tokenizer)
                rates.append(tokens / (time.perf_counter() - begun))
                print(f"{read.__name__}: {rates[-1] / 1e6:.2f} M tokens/s, {dropped:,} of {tokens + dropped:,} dropped")
            ratios.append(rates[0] / rates[1])
    print(f"{statistics.median(ratios):.1f} times as fast ({', '.join(f'{ratio:.1f}' for ratio in ratios)})")
