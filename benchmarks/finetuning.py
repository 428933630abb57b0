"""Training speed of hf_llm's rows and collator, and of TRL's SFTTrainer, on the same examples with the same adapters.

python benchmarks/finetuning.py --model_name_or_path SmolLM2.gguf --task question_answering --train_file train.jsonl

Both train on completions alone, in bfloat16 where the hardware has it; TRL pads one example a row, since its packing
needs FlashAttention. Tokens are those of the examples, without padding.
"""

import argparse
import tempfile
import time

from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from hf_llm.arguments import AdapterArguments, DataArguments, ModelArguments, TaskArguments
from hf_llm.data.packing import PackingCollator, pack
from hf_llm.data.prompting import Prompter, encode_examples
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
    parser.add_argument("--rows", type=int, default=4, help="Packed rows a step; TRL's have as many tokens together.")
    parser.add_argument("--steps", type=int, default=3, help="Timed in each round, after one that is not.")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


class StepTimes(TrainerCallback):
    """When each step ended."""

    def on_train_begin(self, *args, **kwargs):
        self.ends = []

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.perf_counter())


class Counting:
    """A collator that adds up the tokens of its rows."""

    def __init__(self, collator):
        self.collator, self.tokens, self.batches = collator, 0, 0

    def __call__(self, rows):
        self.tokens, self.batches = self.tokens + sum(len(row["input_ids"]) for row in rows), self.batches + 1
        return self.collator(rows)


def contestants(args, folder):
    """Name -> Trainer, each with a model of its own."""
    model_args, adapters = ModelArguments(model_name_or_path=args.model_name_or_path), AdapterArguments(lora_r=16)
    tokenizer, task = load_tokenizer(model_args), load_task(args.task)
    data_args = DataArguments(train_file=[args.train_file] if args.train_file else None)
    rows = load_rows(data_args, TaskArguments(task=args.task), task, seed=42)["train"]
    features, _ = encode_examples(rows, Prompter(tokenizer, task, args.max_length))
    packed, report = pack(features, args.max_length)
    bf16 = has_bfloat16(on_cpu=True)
    settings = {"max_steps": args.steps + 1, "bf16": bf16, "report_to": "none", "save_strategy": "no"}
    settings |= {"activation_checkpointing": False}  # on by default in TRL
    settings |= {"output_dir": folder, "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}

    def model():
        return load_to_finetune(model_args, adapters, tokenizer, args.max_length, bf16)

    trainers = {}
    for name, wanted in {"hf_llm": True, "hf_llm, all logits": False}.items():
        run = TrainingArguments(per_device_train_batch_size=args.rows, remove_unused_columns=False, **settings)
        new = model()
        collator = PackingCollator(tokenizer.pad_token_id, skip_prompts=wanted and can_skip_prompts(new, run))
        trainers[name] = Trainer(new, run, data_collator=collator, train_dataset=packed)
    examples = max(1, round(args.rows * report.documents / report.rows))
    run = SFTConfig(per_device_train_batch_size=examples, max_length=args.max_length, **settings)
    # TRL takes token ids as they are, with a mask of what is trained on.
    masks = [[int(label != -100) for label in labels] for labels in features["labels"]]
    given = Dataset.from_dict({"input_ids": features["input_ids"], "completion_mask": masks})
    trainers["TRL SFTTrainer"] = SFTTrainer(model(), run, train_dataset=given, processing_class=tokenizer)
    return trainers


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        rates = {}
        for name, trainer in (trainers := contestants(args, folder)).items():
            trainer.data_collator = Counting(trainer.data_collator)
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
