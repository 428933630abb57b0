"""Completions for a list of prompts."""

import contextlib
import json
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_llm.arguments import GenerateArguments


@contextlib.contextmanager
def ready_to_generate(model: PreTrainedModel, seed: int):
    """Evaluation mode and a seeded random state; all as before afterwards."""
    training = model.training
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    batch_size: int = 8,
    seed: int = 42,
    show_progress: bool = True,
    **options,
) -> list[str]:
    """Generate one completion for each prompt.

    Prompts are sorted by length and padded on the left; the results come in the order of the prompts.

    Args:
        model: on its device. Under ZeRO-3 every rank calls with the same prompts, and the weights are gathered layer
            by layer (`generate` synchronises the ranks by itself).
        options: what `model.generate` takes, e.g. `max_new_tokens`, `do_sample`, `temperature`, `top_k`, `top_p`.

    Returns:
        The completions without prompts and special tokens.

    Example:
        complete(model, tokenizer, ["The capital of France is"], max_new_tokens=5)
    """
    encoded = encode_prompts(tokenizer, prompts)
    check_positions(model, max(map(len, encoded)), options.get("max_new_tokens", 0))
    order = sorted(range(len(prompts)), key=lambda i: -len(encoded[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    completions = [""] * len(prompts)
    with ready_to_generate(model, seed):
        for batch in tqdm(batches, desc="Generating", disable=not show_progress):
            rows = [{"input_ids": encoded[i]} for i in batch]
            inputs = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
            output = model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, use_cache=True, **options)
            for i, ids in zip(batch, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                completions[i] = decode_completion(tokenizer, encoded[i], ids)
    return completions


def check_positions(model: PreTrainedModel, prompt: int, new_tokens: int) -> None:
    """Refuse to write beyond the positions that the model has: what comes there is noise."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and prompt + new_tokens > positions:
        raise ValueError(
            f"`--max_new_tokens` {new_tokens} after a prompt of {prompt} tokens is beyond the model's {positions} "
            "positions: take fewer, or shorter prompts"
        )


def decode_completion(tokenizer: PreTrainedTokenizerBase, prompt: list[int], completion: list[int]) -> str:
    """The text that a completion adds to its prompt: some tokenizers take a first word's space away."""
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, prompt + completion))
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(completion, skip_special_tokens=True)


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Token ids of each prompt.

    An end-of-sequence token that the tokenizer puts behind every text is taken off. An empty prompt becomes the token
    that opens a document.
    """
    opening = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows = [ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids for ids in tokenizer(prompts).input_ids]
    return [ids or [opening] for ids in rows]


def read_prompts(args: GenerateArguments) -> list[str]:
    """The prompts of `--prompt` or `--prompt_file`.

    Raises:
        ValueError: neither or both are given, or the file cannot be read (the line is named).
    """
    if (args.prompt is None) == (args.prompt_file is None):
        raise ValueError("give either `--prompt` or `--prompt_file`")
    if args.prompt is not None:
        return args.prompt
    path = Path(args.prompt_file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`--prompt_file` {path} cannot be read: {error}") from None
    # Not splitlines(): it also cuts at U+2028 and the like, which JSON may hold.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"`--prompt_file` {path} holds no prompt")
    if path.suffix != ".jsonl":
        return [line for _, line in lines]
    prompts = []
    for number, line in lines:
        try:
            prompts.append(json.loads(line)["prompt"])
        except (ValueError, KeyError, TypeError):
            prompts.append(None)
        if not isinstance(prompts[-1], str):
            raise ValueError(f'`{path}` line {number}: write {{"prompt": "..."}}')
    return prompts


def sampling_options(args: GenerateArguments) -> dict[str, float]:
    """What `model.generate` takes; sampling options only where tokens are drawn, since greedy search warns of them."""
    options = {name: getattr(args, name) for name in ("max_new_tokens", "num_beams", "repetition_penalty", "do_sample")}
    if args.do_sample:
        options |= {name: getattr(args, name) for name in ("temperature", "top_k", "top_p")}
    return options
