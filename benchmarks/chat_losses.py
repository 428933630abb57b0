"""Losses of training on conversations against TRL's SFTTrainer with `assistant_only_loss`: the same rows, step by step.

python benchmarks/chat_losses.py --model_name_or_path SmolLM2.gguf

Both use the built-in ChatML template, which marks the answers by `{% generation %}`. hf_llm derives the mask from the
renderings of the template, TRL takes it from the marks. Without packing, both see the same rows in the same order.
"""

import argparse
import random
import tempfile

from datasets import Dataset
from transformers import Trainer, TrainingArguments, set_seed
from trl import SFTConfig, SFTTrainer

from hf_llm.arguments import AdapterArguments, ModelArguments, TaskArguments
from hf_llm.data.chat_turns import encode_conversations
from hf_llm.data.packing import PackingCollator, pack
from hf_llm.data.prompting import Prompter, add_chat_template
from hf_llm.models.loading import load_to_finetune, load_tokenizer
from hf_llm.tasks import load_task

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
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


def main():
    args = parse()
    draw = random.Random(0)
    chats = [conversation(draw) for _ in range(args.conversations)]
    model_args, adapters = ModelArguments(model_name_or_path=args.model_name_or_path), AdapterArguments()
    tokenizer, new = add_chat_template(load_tokenizer(model_args), TaskArguments("generation", chat_template="chatml"))
    prompter = Prompter(tokenizer, load_task("generation"), 256)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"output_dir": folder, "per_device_train_batch_size": 4, "max_steps": args.steps, "logging_steps": 1}
        settings |= {"learning_rate": 5e-5, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
        settings |= {"disable_tqdm": True, "gradient_checkpointing": False}

        def load_model():
            set_seed(0)
            return load_to_finetune(model_args, adapters, tokenizer, 256, False, prompter, new)

        conversations = [{"messages": chat, "tools": None} for chat in chats]
        rows, _ = encode_conversations(prompter.format, conversations, [f"row {i}" for i in range(len(chats))])
        packed, _ = pack(Dataset.from_list([row for of_chat in rows for row in of_chat]), 256, False)
        run = TrainingArguments(remove_unused_columns=False, **settings)
        collator = PackingCollator(tokenizer.pad_token_id, position_ids=False)
        trainers = {"hf_llm": Trainer(load_model(), run, collator, packed)}
        run = SFTConfig(assistant_only_loss=True, max_length=256, activation_checkpointing=False, **settings)
        rows = Dataset.from_dict({"messages": chats})
        trainers["TRL"] = SFTTrainer(load_model(), run, train_dataset=rows, processing_class=tokenizer)
        losses = {}
        for name, trainer in trainers.items():
            trainer.train()
            losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            print(name, " ".join(f"{loss:.5f}" for loss in losses[name]), flush=True)
        differences = [abs(first - second) for first, second in zip(*losses.values(), strict=True)]
        print(f"largest difference of a step's loss: {max(differences):.1e}")


if __name__ == "__main__":
    main()
