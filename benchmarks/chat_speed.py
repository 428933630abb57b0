"""Speed of encoding conversations against TRL's tokenization with assistant masks, on the same rows, alternating.

    python benchmarks/chat_speed.py
    python benchmarks/chat_speed.py --tokenizer_name FOLDER --conversations 1000 --rounds 5

Conversations of four questions and answers, of sentences of the built-in sample. TRL reads the mask from the marks of
the template, `{% generation %}`; `encode_examples` proves it for each answer. Of a template without marks TRL ships a
copy with marks. benchmarks/chat_masks.py compares what both train on.
"""

import argparse
import importlib.resources
import random
import statistics
import time

import datasets
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl.data_utils import _tokenize

from hf_llm.data.examples import encode_examples
from hf_llm.data.prompting import BUILT_IN, Prompter
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.python_docs import read_python_docs
from hf_llm.tasks import load_task

TRL = importlib.resources.files("trl") / "chat_templates"
TEMPLATES = {  # ours, TRL's
    "chatml (marked)": (BUILT_IN["chatml"], BUILT_IN["chatml"]),
    "qwen2_5 (no marks)": (TRL / "qwen2_5.jinja", TRL / "qwen2_5_training.jinja"),
    "qwen3 (no marks)": (TRL / "qwen3.jinja", TRL / "qwen3_training.jinja"),
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer_name", help="instead of a BPE with 16,000 entries that is trained here")
    parser.add_argument("--conversations", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=4, help="questions with answers")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def conversations(texts: list[str], count: int, turns: int) -> Dataset:
    """Questions of one sentence and answers of up to eight."""
    draw = random.Random(0)
    sentences = [sentence for text in texts for sentence in text.split(". ") if 20 < len(sentence) < 300]
    rows = []
    for _ in range(count):
        messages = []
        for _ in range(turns):
            start = draw.randrange(len(sentences) - 8)
            answer = ". ".join(sentences[start + 1 : start + draw.randrange(2, 9)]).strip()
            messages += [{"role": "user", "content": sentences[start].strip()}]
            messages += [{"role": "assistant", "content": answer}]
        rows.append({"messages": messages})
    return Dataset.from_list(rows)


def encode_by_trl(rows: Dataset, tokenizer: PreTrainedTokenizerBase, template: str) -> Dataset:
    """As SFTTrainer does with `assistant_only_loss`."""

    def encode(row):
        options = {"chat_template": template, "tools": None, "return_assistant_tokens_mask": True}
        encoded = _tokenize(tokenizer, row["messages"], **options)
        return {key: encoded[key] for key in ("input_ids", "assistant_masks")}

    return rows.map(encode, remove_columns=["messages"], load_from_cache_file=False, keep_in_memory=True)


def main():
    args = parse()
    datasets.disable_progress_bars()
    texts = read_python_docs()["train"]["text"]
    rows = conversations(texts, args.conversations, args.turns)
    task = load_task("chat")
    print("| template | tokens each, ours | TRL's | conversations/s, ours | TRL's | median ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (ours, theirs) in TEMPLATES.items():
        if args.tokenizer_name:
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name)
        else:
            tokenizer = train_tokenizer(texts, 16_000)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = ours.read_text()
        speeds = []
        for _ in range(args.rounds):
            start = time.perf_counter()
            encoded, _ = encode_examples(rows, Prompter(tokenizer, task, 1_000_000))
            middle = time.perf_counter()
            by_trl = encode_by_trl(rows, tokenizer, theirs.read_text())
            speeds.append((len(rows) / (middle - start), len(rows) / (time.perf_counter() - middle)))
        ratio = statistics.median(first / second for first, second in speeds)
        mine, other = (statistics.median(column) for column in zip(*speeds, strict=True))
        tokens, masked = (sum(map(len, rows["input_ids"])) / args.conversations for rows in (encoded, by_trl))
        print(f"| {name} | {tokens:,.0f} | {masked:,.0f} | {mine:,.0f} | {other:,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
