"""The facts of a run: what must be equal for a resumed run to be the same run. Checkpoint manifests hold them."""

import json
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets.fingerprint import Hasher
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from hf_llm.data.arrow import row_facts
from hf_llm.data.tokenization import tokenizer_definition

# Arguments of the Trainer that change what is trained. The others change only which weights count as the best, logs,
# files, speed or rounding; `tests/training/test_facts.py` has all of them.
COMPARED_ARGUMENTS = (
    *("optim", "optim_args", "optim_target_modules", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("label_smoothing_factor", "neftune_noise_alpha", "average_tokens_across_devices", "bf16", "fp16", "seed"),
    *("train_sampling_strategy", "length_column_name", "dataloader_drop_last", "accelerator_config"),
)
# Entries of configs that say where a model is from or how it computes, not what it is.
UNCOMPARED_CONFIG = ("transformers_version", "architectures", "dtype", "use_cache")
UNCOMPARED_ADAPTER = ("base_model_name_or_path", "peft_version", "revision", "inference_mode", "auto_mapping")


def run_facts(trainer: Trainer) -> dict[str, Any]:
    """Everything that must be equal for a resumed run to be the same run, from the objects that are trained with.

    Data, weights and tokenizer are compared by their contents: their files may move. The keys are those of the
    manifests. Paths are not among the values. All ranks must call, before the weights of a checkpoint are loaded.

    Returns:
        The facts that rank 0 collects, as JSON would give them back. Under ZeRO-3 the ranks hold other weights.
    """
    facts: list[Any] = [None]
    if trainer.is_world_process_zero():
        facts = [json.loads(json.dumps(collect_facts(trainer), default=str))]
    return broadcast_object_list(facts)[0]


def collect_facts(trainer: Trainer) -> dict[str, Any]:
    """Collect the facts of this rank. Data and weights are hashed at some GB a second, faster than they are read."""
    args, model, rows, collator = trainer.args, trainer.model, trainer.train_dataset, trainer.data_collator
    return {
        **row_facts(rows),
        "ranks": args.world_size,
        "ZeRO stage": zero_stage(trainer),
        **collator.facts(),  # pyright: ignore[reportFunctionMemberAccess]  # it is a PackingCollator
        **argument_facts(args),
        **tokenizer_facts(trainer.processing_class),  # pyright: ignore[reportArgumentType]
        **model_facts(model),  # pyright: ignore[reportArgumentType]
        "early_stopping_patience": early_stopping_patience(trainer),
        "best checkpoint": best_facts(trainer),
    }


def argument_facts(args: TrainingArguments) -> dict[str, Any]:
    """Batch, optimizer, schedule, seeds, sampling and precision; a saved optimizer continues with its old settings."""
    values = args.to_dict()
    return {
        "rows per step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **{name: None if values[name] in ({}, "") else values[name] for name in COMPARED_ARGUMENTS},
        "data_seed": args.seed if args.data_seed is None else args.data_seed,
    }


def best_facts(trainer: Trainer) -> dict[str, Any] | None:
    """What scores must have in common to be compared with the best one so far; None if no best checkpoint is chosen."""
    args = trainer.args
    if not args.metric_for_best_model:
        return None
    chosen_by = {name: getattr(args, name) for name in ("metric_for_best_model", "greater_is_better")}
    return chosen_by | {"validation data": row_facts(trainer.eval_dataset)["data"]}


def zero_stage(trainer: Trainer) -> int | None:
    """The stage of DeepSpeed ZeRO, each of which has files of its own in a checkpoint; None: without DeepSpeed."""
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return plugin.zero_stage if plugin else None


def early_stopping_patience(trainer: Trainer) -> int | None:
    """The patience of early stopping: a resumed Trainer continues with the old one, which is in the checkpoint."""
    callbacks = trainer.callback_handler.callbacks
    patience = [c.early_stopping_patience for c in callbacks if isinstance(c, EarlyStoppingCallback)]
    return patience[0] if patience else None


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Number of entries and hash of the tokenizer and its chat template; the `--vocab_size` that a new one was for.

    A Trainer of packed rows needs no tokenizer; then there are no facts.
    """
    if tokenizer is None:
        return {}
    content = tokenizer_definition(tokenizer)
    content = json.dumps([content, tokenizer.special_tokens_map, tokenizer.chat_template], sort_keys=True, default=str)
    return {
        "tokenizer": f"{len(tokenizer):,} entries, {Hasher.hash_bytes(content.encode())}",
        "vocab_size": getattr(tokenizer, "trained_vocab_size", None),
    }


def model_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Config, settings of the adapter, and a hash of the loaded weights: of those below an adapter, or of all.

    New weights are drawn from the seed, with other rounding on other machines, and a checkpoint replaces all of them.
    """
    adapter = model.peft_config["default"].to_dict() if hasattr(model, "peft_config") else {}
    config = model.config.to_diff_dict()
    weights = [p for p in model.parameters() if not (adapter and p.requires_grad)]
    return {
        "config": {name: value for name, value in config.items() if name not in UNCOMPARED_CONFIG and name[0] != "_"},
        "adapter": {
            name: sorted(value) if isinstance(value, set) else value
            for name, value in adapter.items()
            if name not in UNCOMPARED_ADAPTER
        },
        "loaded weights": hash_weights(weights) if model.config.name_or_path else None,
    }


def hash_weights(parameters: list[torch.nn.Parameter]) -> str:
    """Hash the bits of all parameters; under ZeRO-3 those of this rank's shards."""
    shards = (getattr(parameter, "ds_tensor", parameter).detach() for parameter in parameters)
    bits = (shard.cpu().contiguous().view(-1).view(torch.uint8).numpy() for shard in shards)
    return Hasher.hash_bytes(bits)  # pyright: ignore[reportArgumentType]  # it takes all that is made of bytes


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """List the facts that differ, each with both values; those of mappings inside are named `config.hidden_size`."""
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} was {old} and is {new}")
    return found
