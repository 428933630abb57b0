"""The measurements of `benchmarks/gpu.py`: each function in MEASURE measures a cell, in a process of its own."""

import gc
import importlib.util
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_llm.arguments import AdapterArguments
from hf_llm.data.packing import PackingCollator, mean_attended_length, pack
from hf_llm.distributed.deepspeed_config import prepare_deepspeed
from hf_llm.evaluation.generation import complete
from hf_llm.hardware import peak_flops
from hf_llm.models.adapters import add_adapter
from hf_llm.models.inspection import can_skip_prompts, count_parameters
from hf_llm.models.isolation import causality_leak, isolation_leak
from hf_llm.training.run import run_training
from hf_llm.training.throughput import flops_per_token

# Imported where they are used, because they take seconds and not every cell needs them.
LATE_IMPORTS = ["trl", "deepspeed", "deepspeed.runtime.chunked_cross_entropy", "liger_kernel.transformers"]

MODELS = {
    "GPT-2 124M": ("gpt2", {"vocab_size": 50257, "n_positions": 4096}),
    "Llama 350M": (
        "llama",
        {
            "vocab_size": 32768,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    ),
    "Llama 1B": (  # recipes/configs/pretrain_llama_1b.yaml
        "llama",
        {
            "vocab_size": 49152,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
    "Llama 3B": (
        "llama",
        {
            "vocab_size": 49152,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
        },
    ),
}
TINY = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
# Lengths in tokens of the prompts and completions of 48 examples from each training set (BPE with 16,384 entries).
EXAMPLES = {
    "SQuAD": (
        "151 133 210 304 292 286 211 100 194 183 279 493 608 303 150 245 165 314 279 122 144 223 97 192 143 309 169 "
        "170 183 190 130 169 102 328 166 176 98 227 183 95 198 195 227 136 286 182 280 61",
        "8 7 9 7 5 7 6 4 10 23 6 5 15 5 3 6 4 5 5 4 9 7 5 5 10 23 3 4 5 10 3 4 5 6 5 7 4 7 10 5 5 11 4 28 8 4 9 4",
    ),
    "BANKING77": (
        "34 24 25 20 30 20 22 22 23 30 28 43 34 26 20 31 22 16 22 20 24 21 21 22 24 26 26 21 21 22 25 52 17 23 27 27 "
        "20 19 22 26 18 23 29 23 23 20 18 21",
        "5 4 6 6 6 8 4 5 5 5 6 6 8 5 4 5 6 5 8 5 7 5 4 5 4 5 7 4 6 5 5 10 4 5 5 5 6 5 4 4 6 6 4 5 4 5 6 5",
    ),
}


class Machine:
    """The device and the scale of a cell, and a folder for its files."""

    def __init__(self, device: str, tiny: bool, shared: str):
        self.device, self.tiny, self.shared = torch.device(device), tiny, Path(shared)
        self.on_gpu = device == "cuda"
        self.folder = tempfile.mkdtemp(dir=shared)
        datasets.disable_progress_bars()

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak_gib(self) -> float | None:
        """Peak memory of the GPU in GiB; None on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else None

    def model(self, name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        """A model with random weights, which are the same every time."""
        kind, shape = MODELS[name]
        if kind == "gpt2":
            shape = shape | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        else:
            shape = shape | {"max_position_embeddings": 8192, "tie_word_embeddings": True}
        config = AutoConfig.for_model(kind, **(shape | TINY if self.tiny else shape))
        config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
        if self.tiny and kind == "llama":
            config.num_key_value_heads, config.head_dim, config.intermediate_size = 1, 16, 64
        if attention == "varlen":
            register_varlen()
        torch.manual_seed(0)
        with self.device:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        if attention == "varlen":
            model.register_forward_pre_hook(find_documents, with_kwargs=True)
        return model

    def arguments(self, batch: int, steps: int, **more) -> TrainingArguments:
        """Arguments of a Trainer: `settings` and further ones."""
        return TrainingArguments(**(self.settings(batch, steps) | more))

    def settings(self, batch: int, steps: int) -> dict:
        """The arguments that all Trainers share."""
        return {
            "output_dir": self.folder,
            "max_steps": steps,
            "per_device_train_batch_size": batch,
            "per_device_eval_batch_size": 1,
            "bf16": self.on_gpu,
            "use_cpu": not self.on_gpu,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_num_workers": 2 if self.on_gpu else 0,
            "include_num_input_tokens_seen": "non_padding",
        }

    def length(self, tokens: int) -> int:
        """A number of tokens, divided by 32 for a tiny run."""
        return tokens // 32 if self.tiny else tokens


class Windows(TrainerCallback):
    """Times three windows of steps, each between two synchronizations of the device, after some untimed steps.

    Args:
        warm_up: number of untimed steps.
        steps: number of steps in each window.
    """

    def __init__(self, machine: Machine, warm_up: int, steps: int):
        self.machine, self.warm_up, self.steps, self.marks = machine, warm_up, steps, []
        self.total = warm_up + 3 * steps

    def on_step_end(self, args, state, control, **kwargs):
        self.step_done(state.global_step)

    def step_done(self, step: int) -> None:
        """Record the time if a window starts or ends after this step."""
        if step >= self.warm_up and (step - self.warm_up) % self.steps == 0:
            self.machine.synchronize()
            self.marks.append(time.perf_counter())

    def step_seconds(self) -> float:
        """Seconds per step: the median of the windows."""
        return statistics.median(np.diff(self.marks)) / self.steps


def windows(machine: Machine, model: str, compiled: bool = False) -> Windows:
    """The timer for a model: fewer steps for larger models, whose steps take longer."""
    if machine.tiny:
        return Windows(machine, warm_up=1, steps=1)
    return Windows(machine, 6 if compiled else 2, {"GPT-2 124M": 4, "Llama 350M": 3}.get(model, 2))


def pretraining_rows(machine: Machine, model, count: int, one_document: bool) -> Dataset:
    """Packed rows of 2,048 random tokens: one document each, or documents with a mean length of 680 tokens."""
    draw, length = np.random.default_rng(0), machine.length(2048)
    if one_document:
        sizes = np.full(count, length)
    else:
        scale = length / 2048
        sizes = np.maximum(2, draw.lognormal(6.2, 0.8, 2 + count * 2048 // 400) * scale).astype(int)
    tokens = draw.integers(1, model.config.vocab_size, sizes.sum(), dtype=np.int32)
    documents = Dataset.from_dict({"input_ids": np.split(tokens, np.cumsum(sizes)[:-1])})
    rows, _ = pack(documents, length)
    return rows.select(draw.permutation(len(rows))[:count])  # best fit puts the longest documents first


def stack(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Make a batch without positions, in which the documents of a row attend to each other."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = torch.as_tensor(np.asarray(row["input_ids"]))
    return {"input_ids": ids, "labels": ids}


def install_loss(model, loss: str | None) -> None:
    """Replace the loss of the model by DeepSpeed's chunked one if `loss` is `chunked`."""
    if loss == "chunked":
        from deepspeed.runtime.chunked_cross_entropy import install_chunked_causal_lm_loss

        install_chunked_causal_lm_loss(model)


def pretrain(
    machine: Machine,
    batch: int,
    model: str,
    by: str = "hf_llm",
    attention: str = "sdpa",
    loss: str | None = None,
    one_document: bool = False,
    **settings,
) -> dict:
    """Tokens per second of pretraining: by `run_training`, by the stock Trainer, or by a bare loop."""
    net = machine.model(model, attention)
    install_loss(net, loss)
    timer = windows(machine, model, settings.get("torch_compile", False))
    rows = pretraining_rows(machine, net, timer.total * batch, one_document)
    attended = mean_attended_length(rows)
    flops = {"causal": flops_per_token(net, attended / 2, 1.0), "full": flops_per_token(net, attended, 1.0)}
    args = machine.arguments(batch, timer.total, use_liger_kernel=loss == "Liger", **settings)
    if by == "loop":
        bare_loop(machine, net, rows, batch, timer)
    else:
        train(machine, net, args, rows, timer, PackingCollator(0) if by == "hf_llm" else stack)
    rate = batch * mean_tokens(rows) / timer.step_seconds()
    row = {"rate": rate, "unit": "tokens/s"}
    if machine.on_gpu:
        peak, _ = peak_flops(machine.device, True)
        row |= {f"mfu_{name}": rate * per_token / peak for name, per_token in flops.items()}
    return row


def mean_tokens(rows: Dataset) -> float:
    """Mean number of tokens per row."""
    return sum(int(np.sum(lengths)) for lengths in rows["lengths"]) / len(rows)


def train(machine: Machine, net, args: TrainingArguments, rows: Dataset, timer: Windows | None, collator) -> Trainer:
    """Train by `run_training`, which checks isolation, if the collator is hf_llm's, and else by `Trainer.train`."""
    ours = isinstance(collator, PackingCollator)
    if not ours:
        args.include_num_input_tokens_seen = "no"
    trainer = Trainer(net, args, data_collator=collator, train_dataset=rows, eval_dataset=rows.select(range(1)))
    if timer:
        trainer.add_callback(timer)
    if ours:
        run_training(trainer, None, collator.position_ids, {"train": [], "eval": []})
    else:
        trainer.train()
    return trainer


def bare_loop(machine: Machine, net, rows: Dataset, batch: int, timer: Windows) -> None:
    """Train in a minimal loop, with the optimizer, precision and clipping of the Trainer."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=machine.on_gpu)
    net.train()
    for step in range(timer.total):
        inputs = stack([rows[step * batch + i] for i in range(batch)])
        inputs = {name: value.to(machine.device, non_blocking=True) for name, value in inputs.items()}
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.on_gpu):
            loss = net(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        timer.step_done(step + 1)


def finetune(machine: Machine, batch: int, model: str, data: str, by: str, lora: bool = False) -> dict:
    """Tokens per second of fine-tuning on examples of real lengths: packed, padded, or by TRL.

    A step has about the same number of tokens in each.

    Args:
        batch: number of packed rows of 1,024 tokens per step.
        by: packed, padded or TRL.
    """
    net = machine.model(model, dtype=torch.bfloat16 if lora and machine.on_gpu else torch.float32)
    if lora:
        net = add_adapter(net, AdapterArguments(lora_r=16))
    timer, length = windows(machine, model), 1024
    prompts, completions = (np.array(list(map(int, text.split()))) for text in EXAMPLES[data])
    sizes = prompts + completions
    examples = max(1, round(batch * length / sizes.mean()))  # per step
    drawn = np.random.default_rng(0).integers(0, len(sizes), examples * timer.total)
    ids = [np.random.default_rng(i).integers(1, 256, sizes[kind]).tolist() for i, kind in enumerate(drawn)]
    trained = [[0] * prompts[kind] + [1] * completions[kind] for kind in drawn]
    if by == "TRL":
        train_by_trl(machine, net, examples, timer, Dataset.from_dict({"input_ids": ids, "completion_mask": trained}))
        per_step = sizes[drawn].sum() / timer.total
    else:
        labels = [np.where(mask, row, -100).tolist() for mask, row in zip(trained, ids, strict=True)]
        rows, _ = pack(Dataset.from_dict({"input_ids": ids, "labels": labels}), length, by == "packed")
        rows = rows.shuffle(seed=0)
        step_rows = batch if by == "packed" else examples
        args = machine.arguments(step_rows, timer.total)
        collator = PackingCollator(0, by == "packed", can_skip_prompts(net, args))
        train(machine, net, args, rows, timer, collator)
        per_step = step_rows * mean_tokens(rows)
    rate = per_step / timer.step_seconds()
    return {"rate": rate, "unit": "tokens/s", "note": f"{rate / sizes.mean():,.0f} examples/s without padding"}


def train_by_trl(machine: Machine, net, batch: int, timer: Windows, rows: Dataset) -> None:
    """Train by TRL's SFTTrainer, on padded rows with a mask of the completions."""
    from trl import SFTConfig, SFTTrainer

    settings = machine.settings(batch, timer.total) | {"activation_checkpointing": False}  # the default of TRL is on
    args = SFTConfig(**settings | {"remove_unused_columns": True}, max_length=1024)
    trainer = SFTTrainer(net, args, train_dataset=rows, processing_class=words_tokenizer(256))
    trainer.add_callback(timer)
    trainer.train()


def words_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words `w1`, `w2` and so on."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    tokenizer = Tokenizer(WordLevel({"<pad>": 0} | {f"w{i}": i for i in range(1, vocab_size)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>", padding_side="left"
    )


def check_attention(machine: Machine, batch: int, model: str, attention: str) -> dict:
    """Leaks between documents and from later tokens, and packed against separate logits, in float32 and bfloat16."""
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return {"note": "flash-attn is not installed"}
    notes = []
    for dtype in (torch.float32, torch.bfloat16):
        try:
            net = machine.model(model, attention, dtype).eval()
            figures = isolation_leak(net, PackingCollator(0)), causality_leak(net, PackingCollator(0))
            figures += (packed_difference(machine, net),)
            result = "isolation leak {:.1e}, causality leak {:.1e}, packed against separate {:.1e}".format(*figures)
        except (RuntimeError, ValueError, TypeError, ImportError) as error:
            result = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
        notes.append(f"{str(dtype).removeprefix('torch.')}: {result}")
        net = None
        gc.collect()
    return {"note": "; ".join(notes)}


@torch.no_grad()
def packed_difference(machine: Machine, net) -> float:
    """Largest difference between the logits of packed and of separate documents, relative to the largest logit."""
    lengths = [machine.length(size) for size in (832, 64, 704, 160, 288)]
    ids = np.random.default_rng(1).integers(1, net.config.vocab_size, sum(lengths))
    starts, collator = np.cumsum(lengths) - lengths, PackingCollator(0)

    def logits(rows: np.ndarray, sizes: list[int]) -> torch.Tensor:
        inputs = collator([{"input_ids": rows, "lengths": sizes}])
        inputs = {name: inputs[name].to(machine.device) for name in ("input_ids", "position_ids")}
        return net(**inputs, use_cache=False).logits[0].float()

    packed = logits(ids, lengths)
    separate = torch.cat([logits(ids[at : at + size], [size]) for at, size in zip(starts, lengths, strict=True)])
    return ((packed - separate).abs().max() / separate.abs().max()).item()


def zero(machine: Machine, batch: int, model: str, stage: int | None) -> dict:
    """Losses of eight steps under a ZeRO stage, compared with those without DeepSpeed from the same weights."""
    saved = machine.shared / f"weights-{model.replace(' ', '-')}"
    if not saved.exists():
        machine.model(model).save_pretrained(saved)
        gc.collect()
    steps = 3 if machine.tiny else 8
    settings = machine.settings(batch, steps) | {"logging_steps": 1}
    if stage is not None:
        settings["deepspeed"] = str(Path(__file__).parents[1] / f"ds_configs/zero{stage}.json")
        del settings["use_cpu"]
        prepare_deepspeed(settings)
    args = TrainingArguments(**settings)
    net = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    if machine.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    rows = pretraining_rows(machine, net, steps * batch, False)
    trainer = train(machine, net, args, rows, None, PackingCollator(0))
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    reference = machine.shared / f"losses-{model.replace(' ', '-')}.json"
    if stage is None:
        reference.write_text(json.dumps(losses))
    note = f"loss {losses[0]:.4f} to {losses[-1]:.4f}"
    if stage is not None and reference.exists():
        pairs = zip(losses, json.loads(reference.read_text()), strict=True)
        note += f", largest difference to those without DeepSpeed {max(abs(a - b) for a, b in pairs):.1e}"
    if stage is not None:
        note += ", in force"  # or run_training would raise an error
    return {"note": note, "losses": losses}


def memory(
    machine: Machine, batch: int, model: str, length: int, checkpointing: bool = False, lora: bool = False
) -> dict:
    """Peak memory of three steps of the stock Trainer on rows of one document."""
    net = machine.model(model, dtype=torch.bfloat16 if lora and machine.on_gpu else torch.float32)
    if lora:
        net = add_adapter(net, AdapterArguments(lora_r=16))
    count, width = (2 if machine.tiny else 3) * batch, machine.length(length)
    ids = np.random.default_rng(0).integers(1, 256, (count, width))
    rows = Dataset.from_dict({"input_ids": list(ids), "lengths": [[width]] * count}).with_format("numpy")
    args = machine.arguments(batch, count // batch, activation_checkpointing=checkpointing)
    train(machine, net, args, rows, None, stack)
    trained = count_parameters(net, trained=True)
    return {"note": f"{count_parameters(net):,} parameters, {trained:,} of them trained"}


def generate(machine: Machine, batch: int, model: str, by: str) -> dict:
    """Prompts per second, with 32 new tokens each, by `complete` or by transformers' pipeline."""
    net = machine.model(model, dtype=torch.bfloat16 if machine.on_gpu else torch.float32).eval()
    tokenizer, draw = words_tokenizer(net.config.vocab_size), np.random.default_rng(0)
    sizes = [int(size) for size in EXAMPLES["SQuAD"][0].split()] * 4
    sizes = sizes[:6] if machine.tiny else sizes
    prompts = [" ".join(f"w{i}" for i in draw.integers(1, net.config.vocab_size, size)) for size in sizes]
    net.generation_config.eos_token_id = None  # random weights generate it at random
    options = {"max_new_tokens": 2 if machine.tiny else 32, "do_sample": False}
    if by == "hf_llm":

        def answer(texts):
            complete(net, tokenizer, texts, batch_size=batch, show_progress=False, **options)
    else:
        from transformers import pipeline

        writer = pipeline("text-generation", model=net, tokenizer=tokenizer, device=machine.device)

        def answer(texts):
            writer(texts, batch_size=batch, return_full_text=False, **options)

    answer(prompts[:batch])
    machine.synchronize()
    begun = time.perf_counter()
    answer(prompts)
    machine.synchronize()
    return {"rate": len(prompts) / (time.perf_counter() - begun), "unit": "prompts/s"}


documents: dict[str, object] = {}  # of the current batch: cumulative lengths, and the longest length


def find_documents(model, args, kwargs) -> None:
    """Forward pre-hook that finds the documents of a batch: each starts at position 0."""
    positions = kwargs["position_ids"]
    starts = (positions.flatten() == 0).nonzero().flatten()
    ends = torch.cat([starts, starts.new_tensor([positions.numel()])])
    documents.update(cumulative=ends.int(), longest=int(ends.diff().max()))


def register_varlen() -> None:
    """Register attention by `torch.nn.attention.varlen.varlen_attn`: one kernel for all documents of a batch, no mask.

    It supports only half precision, so float32 is computed in bfloat16.
    """
    from torch.nn.attention.varlen import varlen_attn

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        autocast, half = torch.is_autocast_enabled("cuda"), query.dtype in (torch.float16, torch.bfloat16)
        dtype = query.dtype if half or not query.is_cuda else torch.bfloat16
        rows, heads, width, size = query.shape
        key, value = (part.repeat_interleave(heads // part.shape[1], 1) for part in (key, value))
        flat = [part.to(dtype).transpose(1, 2).reshape(rows * width, heads, size) for part in (query, key, value)]
        borders, longest = documents["cumulative"], documents["longest"]
        output = varlen_attn(*flat, borders, borders, longest, longest, scale=scaling, window_size=(-1, 0))
        return output.view(rows, width, heads, size).to(dtype if autocast else query.dtype), None

    AttentionInterface.register("varlen", attend)
    AttentionMaskInterface.register("varlen", lambda *args, **kwargs: None)


MEASURE = {
    "pretraining": pretrain,
    "finetuning": finetune,
    "attention": check_attention,
    "zero": zero,
    "memory": memory,
    "generation": generate,
}


def measure(part: str, device: str, tiny: bool, shared: str, batch: int, settings: dict) -> dict:
    """Measure one row of the table, in its own process."""
    machine = Machine(device, tiny, shared)
    try:
        row = MEASURE[part](machine, batch, **settings)
    except Exception as error:
        if "out of memory" not in str(error).lower():
            raise
        return {"out_of_memory": True}
    finally:
        shutil.rmtree(machine.folder, ignore_errors=True)
    return row | {"peak_gib": machine.peak_gib()}
