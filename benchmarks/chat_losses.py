"""Losses of recipes/finetune.py on conversations against TRL's SFTTrainer with `assistant_only_loss`, step by step.

python benchmarks/chat_losses.py --model_name_or_path SmolLM2.gguf

The chat template marks the answers by `{% generation %}` (the built-in ChatML template, or that of `--chat_template`).
The recipe derives the mask from the renderings of the template, TRL takes it from the marks. Without packing, both see
the same rows in the same order.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from hf_llm.arguments import AdapterArguments, ModelArguments, TaskArguments
from hf_llm.data.prompting import Prompter, add_chat_template
from hf_llm.models.loading import load_to_finetune, load_tokenizer
from hf_llm.tasks import load_task

RECIPE = Path(__file__).parents[1] / "recipes" / "finetune.py"
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--chat_template", default="chatml")
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    return parser.parse_args()


def conversation(draw: random.Random) -> list[dict[str, str]]:
    """A conversation of one to three sums, some with a system message."""
    messages = [{"role": "system", "content": "Answer in words."}] * draw.randrange(2)
    for _ in range(draw.randrange(1, 4)):
        first, second = draw.randrange(5), draw.randrange(5)
        messages += [{"role": "user", "content": f"What is {first} + {second}?"}]
        messages += [{"role": "assistant", "content": f"It is {NUMBERS[first + second]}."}]
    return messages


def losses(history: list[dict[str, float]]) -> list[float]:
    return [entry["loss"] for entry in history if "loss" in entry]


def recipe_losses(args, chats: list[list[dict[str, str]]], folder: Path, settings: dict[str, Any]) -> list[float]:
    """Train by the recipe, as a user does."""
    for name, rows in {"train": chats, "held_out": chats[:1]}.items():
        lines = [json.dumps({"messages": messages}) for messages in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    flags = {"task": "chat", "model_name_or_path": args.model_name_or_path, "chat_template": args.chat_template}
    flags |= {"train_file": folder / "train.jsonl", "validation_file": folder / "held_out.jsonl"}
    flags |= {"max_length": 256, "packing": False, "eval_strategy": "no", "output_dir": folder / "recipe"} | settings
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    subprocess.run([sys.executable, str(RECIPE), *words], check=True, stdout=subprocess.DEVNULL)
    return losses(json.loads((folder / "recipe" / "trainer_state.json").read_text())["log_history"])


def trl_losses(args, chats: list[list[dict[str, str]]], folder: Path, settings: dict[str, Any]) -> list[float]:
    """Train by TRL's trainer, from the same weights: a model without the tokens of the template gets them first."""
    model_args = ModelArguments(model_name_or_path=args.model_name_or_path)
    task_args = TaskArguments("chat", chat_template=args.chat_template)
    tokenizer, new = add_chat_template(load_tokenizer(model_args), task_args)
    prompter = Prompter(tokenizer, load_task("chat"), 256)
    model = load_to_finetune(model_args, AdapterArguments(), tokenizer, 256, False, prompter, new)
    run = SFTConfig(
        str(folder / "trl"), assistant_only_loss=True, max_length=256, activation_checkpointing=False, **settings
    )
    set_seed(run.seed)
    rows = Dataset.from_dict({"messages": chats})
    trainer = SFTTrainer(model, run, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return losses(trainer.state.log_history)


def main():
    args = parse()
    draw = random.Random(0)
    chats = [conversation(draw) for _ in range(args.conversations)]
    settings: dict[str, Any] = {"per_device_train_batch_size": 4, "max_steps": args.steps, "logging_steps": 1}
    settings |= {"learning_rate": 5e-5, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
    settings |= {"disable_tqdm": True, "gradient_checkpointing": False}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, train in {"recipe": recipe_losses, "TRL": trl_losses}.items():
            found[name] = train(args, chats, Path(folder), settings)
            print(name, " ".join(f"{loss:.5f}" for loss in found[name]), flush=True)
    differences = [abs(first - second) for first, second in zip(*found.values(), strict=True)]
    print(f"largest difference of a step's loss: {max(differences):.1e}")


if __name__ == "__main__":
    main()
