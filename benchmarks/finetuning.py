"""Training speed with hf_llm's rows and collator against TRL's SFTTrainer: the same examples and adapters, alternating.

python benchmarks/finetuning.py --model_name_or_path SmolLM2.gguf --task question_answering --train_file train.jsonl

Both train only on completions, in bfloat16 if the hardware supports it. TRL has one padded example per row, since its
packing needs FlashAttention. Padding is not counted as tokens.
"""

import argparse
import tempfile
import time

from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from hf_llm.arguments import AdapterArguments, DataArguments, ModelArguments, TaskArguments
from hf_llm.data.examples import encode_examples
from hf_llm.data.packing import PackingCollator, pack
from hf_llm.data.prompting import Prompter
from hf_llm.data.rows import load_rows
from hf_llm.hardware import has_bfloat16
from hf_llm.models.inspection import can_skip_prompts
from hf_llm.models.loading import load_to_finetune, load_tokenizer
from hf_llm.tasks import load_task


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--task", default="translation")
    parser.add_argument("--train_file")
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=4, help="Packed rows per step; TRL gets about as many tokens.")
    parser.add_argument("--steps", type=int, default=3, help="Timed steps of each round, after one untimed step.")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


class StepTimes(TrainerCallback):
    """Records when each step ended."""

    def on_train_begin(self, *args, **kwargs):
        self.ends = []

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.perf_counter())


class CountTokens:
    """A collator that counts the tokens and batches that it is called with."""

    def __init__(self, collator):
        self.collator, self.tokens, self.batches = collator, 0, 0

    def __call__(self, rows):
        self.tokens, self.batches = self.tokens + sum(len(row["input_ids"]) for row in rows), self.batches + 1
        return self.collator(rows)


def build_trainers(args, folder):
    """The Trainers by their names, each with its own model."""
    model_args, adapters = ModelArguments(model_name_or_path=args.model_name_or_path), AdapterArguments(lora_r=16)
    tokenizer, task = load_tokenizer(model_args), load_task(args.task)
    data_args = DataArguments(train_file=[args.train_file] if args.train_file else None)
    rows = load_rows(data_args, TaskArguments(task=args.task), task, seed=42)["train"]
    features, _ = encode_examples(rows, prompter := Prompter(tokenizer, task, args.max_length))
    packed, report = pack(features, args.max_length)
    bf16 = has_bfloat16(on_cpu=True)
    settings = {"max_steps": args.steps + 1, "bf16": bf16, "report_to": "none", "save_strategy": "no"}
    settings |= {"activation_checkpointing": False}  # on by default in TRL
    settings |= {"output_dir": folder, "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}

    def load_model():
        return load_to_finetune(model_args, adapters, tokenizer, args.max_length, bf16, prompter)

    trainers = {}
    for name, skip_prompts in {"hf_llm": True, "hf_llm, all logits": False}.items():
        run = TrainingArguments(per_device_train_batch_size=args.rows, remove_unused_columns=False, **settings)
        model = load_model()
        collator = PackingCollator(tokenizer.pad_token_id, skip_prompts=skip_prompts and can_skip_prompts(model, run))
        trainers[name] = Trainer(model, run, data_collator=collator, train_dataset=packed)
    batch_size = max(1, round(args.rows * report.documents / report.rows))
    run = SFTConfig(per_device_train_batch_size=batch_size, max_length=args.max_length, **settings)
    # TRL accepts token ids, with a mask of the tokens to train on.
    masks = [[int(label != -100) for label in labels] for labels in features["labels"]]
    examples = Dataset.from_dict({"input_ids": features["input_ids"], "completion_mask": masks})
    trainers["TRL SFTTrainer"] = SFTTrainer(load_model(), run, train_dataset=examples, processing_class=tokenizer)
    return trainers


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        rates = {}
        for name, trainer in (trainers := build_trainers(args, folder)).items():
            trainer.data_collator = CountTokens(trainer.data_collator)
            trainer.add_callback(times := StepTimes())
            rates[name] = times, []
        for number in range(args.rounds):
            for name, trainer in trainers.items():
                trainer.train()
                times, measured = rates[name]
                tokens = args.steps * trainer.data_collator.tokens / trainer.data_collator.batches
                measured.append(tokens / (times.ends[-1] - times.ends[0]))
            ratios = {name: rates["hf_llm"][1][-1] / measured[-1] for name, (_, measured) in rates.items()}
            print(
                f"round {number + 1}: " + ", ".join(f"{name} 1/{ratio:.2f}" for name, ratio in ratios.items()),
                flush=True,
            )
    for name, (_, measured) in rates.items():
        print(f"{name:20} {sorted(measured)[len(measured) // 2]:8.1f} tokens/s")


if __name__ == "__main__":
    main()
