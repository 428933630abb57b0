"""Completions for a list of prompts: on one rank or many, under any ZeRO stage."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, StoppingCriteria, Trainer

from hf_llm.arguments import GenerateArguments
from hf_llm.data.prompting import without_end
from hf_llm.distributed.zero import gathered_weights
from hf_llm.models.inspection import num_positions

BATCH_SIZE = 8  # prompts per forward pass, by default


def model_and_tokenizer(trainer: Trainer) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """The model of a Trainer, or the DeepSpeedEngine around it, and its tokenizer, as `complete` takes them."""
    return trainer.model_wrapped, trainer.processing_class  # pyright: ignore[reportReturnType]  # they are not None


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[tuple[Any, bool]]:
    """Provide the plain model with all its weights, in evaluation mode; restore mode and random state afterwards.

    Args:
        model: a model, or the DeepSpeedEngine around it.

    Yields:
        The model, and whether all ranks must call it equally often (ZeRO-3 with weights gathered layer by layer).
    """
    training = model.training
    with torch.random.fork_rng(), torch.no_grad(), gathered_weights(model) as (plain, synced_ranks):
        plain.eval()
        try:
            yield plain, synced_ranks
        finally:
            plain.train(training)


def batch_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group indices into batches of similar length, the longest first, so that a lack of memory shows in the first.

    The batches do not depend on the number of ranks, so the results do not either, to the last bit.

    Example:
        >>> batch_by_length([3, 9, 4, 7], batch_size=2)
        [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def rank_batches(batches: list[list[int]], synced_ranks: bool, label: str | None) -> Iterator[list[int]]:
    """Iterate over this rank's batches, with a progress bar on rank 0.

    Args:
        synced_ranks: give every rank the same number of batches; ranks that have one less get the first one again.
        label: label of the progress bar; None for no bar.
    """
    state = PartialState()
    own = batches[state.process_index :: state.num_processes]
    if synced_ranks and len(own) < -(-len(batches) // state.num_processes):
        own.append(batches[0])
    # `leave=None`: a bar below that of training does not stay.
    yield from tqdm(own, desc=label, leave=None, disable=label is None or not state.is_main_process)


def complete(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[list[int]],
    *,
    batch_size: int = BATCH_SIZE,
    seed: int = 42,
    show_progress: bool = True,
    stop_strings: Sequence[str] = (),
    **options,
) -> list[str]:
    """Generate one completion for each prompt.

    The ranks share the batches of left-padded prompts. Each prompt is sampled with random numbers of its own, so that
    its completion depends neither on the number of ranks nor on the batch. In bfloat16 and float16 another batch size
    rounds the logits differently, which may change the likeliest token.

    Args:
        model: a model on its device, or the DeepSpeedEngine around it. Every rank must call with the same prompts.
        tokenizer: the model's tokenizer.
        prompts: N texts, or the token ids of each.
        batch_size: prompts per batch.
        seed: seed of sampling; with another one, every prompt has other random numbers.
        show_progress: show a progress bar on rank 0.
        stop_strings: a completion ends before the first of them.
        options: arguments of `model.generate`, e.g. `max_new_tokens`, `do_sample`, `temperature`, `top_k`, `top_p`.

    Returns:
        The N completions in the order of the prompts, without prompts and special tokens, on every rank.

    Raises:
        ValueError: prompt and new tokens exceed the positions of the model.

    Example:
        >>> complete(model, tokenizer, ["The capital of France is"], max_new_tokens=5)
    """
    encoded, new_tokens = tokenize_prompts(tokenizer, prompts), options.get("max_new_tokens", 0)
    longest, positions = max(map(len, encoded)), num_positions(model)
    if longest + new_tokens > positions:  # beyond its positions, the output of a model is noise
        raise ValueError(
            f"`--max_new_tokens` {new_tokens} after a prompt of {longest} tokens is beyond the model's {positions} "
            "positions: give a smaller one, or shorter prompts"
        )
    criteria = StopOnStrings(tokenizer, stop_strings) if stop_strings else None
    completions = generate_ids(model, tokenizer, encoded, batch_size, seed, show_progress, criteria, **options)
    pairs = zip(encoded, completions, strict=True)
    return [truncate_at(decode_completion(tokenizer, prompt, ids), stop_strings) for prompt, ids in pairs]


def generate_ids(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    batch_size: int = BATCH_SIZE,
    seed: int = 42,
    show_progress: bool = True,
    criteria: "StopRows | None" = None,
    **options,
) -> list[list[int]]:
    """Generate the token ids of one completion for each prompt, up to the first end token; see `complete`.

    Args:
        criteria: ends a completion before the end token.
    """
    completions = {}
    with evaluation_mode(model) as (plain, synced_ranks):
        batches = batch_by_length(list(map(len, prompts)), batch_size)
        end: Any = options.get("eos_token_id", plain.generation_config.eos_token_id)
        ends = {*(end if isinstance(end, list) else [end])}
        for batch in rank_batches(batches, synced_ranks, "Generating" if show_progress else None):
            rows = [{"input_ids": prompts[i]} for i in batch]
            inputs = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(plain.device)
            width = inputs["input_ids"].shape[1]
            if criteria:
                criteria.start([prompts[i] for i in batch], width)
            with RowStreams(batch, seed, plain.device) if options.get("do_sample") else contextlib.nullcontext():
                output = plain.generate(
                    **inputs,
                    stopping_criteria=[criteria] if criteria else None,
                    pad_token_id=tokenizer.pad_token_id,
                    use_cache=True,
                    synced_gpus=synced_ranks,  # by default it is True under ZeRO-3, and ranks would wait for each other
                    **options,
                )
            for i, ids in zip(batch, output[:, width:].tolist(), strict=True):
                completions[i] = [*itertools.takewhile(lambda token: token not in ends, ids)]
                while completions[i][-1:] == [tokenizer.pad_token_id]:  # after a row that the criteria ended
                    completions[i].pop()
    completions = dict(gather_object(list(completions.items())))
    return [completions[i] for i in range(len(prompts))]


class RowStreams(TorchFunctionMode):
    """Draws the samples of each row of a batch from a generator of its own, instead of all from one.

    The generators' seeds are (seed * 2654435761 + row) modulo 2^32, all that torch uses on a CPU. The factor is 2^32
    divided by the golden ratio: two seeds that differ by less than 1,000 share none with fewer than 1.9 million rows.

    Args:
        rows: numbers of the prompts in the batch.
    """

    def __init__(self, rows: list[int], seed: int, device: torch.device):
        super().__init__()
        seeds = [(seed * 2_654_435_761 + row) % 2**32 for row in rows]
        self.generators = [torch.Generator(device).manual_seed(each) for each in seeds]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.multinomial:
            return func(*args, **(kwargs or {}))
        rows = zip(*args, self.generators, strict=True)
        return torch.stack([func(row, **(kwargs or {}), generator=generator) for row, generator in rows])


def decode_completion(tokenizer: PreTrainedTokenizerBase, prompt: list[int], completion: list[int]) -> str:
    """Decode a completion after its prompt, since some tokenizers drop the space before the first word of a text."""
    texts = tokenizer.batch_decode([prompt, prompt + completion, completion], skip_special_tokens=True)
    before, whole, alone = texts
    return whole[len(before) :] if whole.startswith(before) else alone


class StopRows(StoppingCriteria):
    """Base of criteria that end single rows of a batch."""

    def start(self, prompts: list[list[int]], width: int) -> None:
        """Begin a batch of prompts, which are padded to `width` tokens."""
        self.width = width


class StopOnStrings(StopRows):
    """Ends a row once its completion contains a stop string after its first word.

    `StopStringCriteria` of transformers would also stop at a line end before the first word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: Sequence[str]):
        self.tokenizer, self.stop_strings = tokenizer, stop_strings

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.width :], skip_special_tokens=True)
        return torch.tensor([truncate_at(text, self.stop_strings) != text for text in texts], device=input_ids.device)


def truncate_at(text: str, stop_strings: Sequence[str]) -> str:
    """Return the text before the first stop string; stop strings in its leading white space are ignored.

    Example:
        >>> truncate_at("\\nParis\\nBerlin", ["\\n"])
        '\\nParis'
    """
    start = len(text) - len(text.lstrip())
    ends = [end for stop in stop_strings if (end := text.find(stop, start)) >= 0]
    return text[: min(ends, default=len(text))]


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any]) -> Sequence[list[int]]:
    """Token ids of each prompt, without an end token; an empty prompt becomes the token that starts a document.

    Args:
        prompts: texts, or token ids, which are returned as they are.
    """
    if not isinstance(prompts[0], str):
        return prompts
    return [without_end(ids, tokenizer) for ids in tokenizer(list(prompts)).input_ids]


def sampling_options(args: GenerateArguments) -> dict[str, float]:
    """Arguments of `model.generate`; those of sampling only with `do_sample`, since transformers warns otherwise."""
    options = {name: getattr(args, name) for name in ("max_new_tokens", "num_beams", "repetition_penalty", "do_sample")}
    if args.do_sample:
        options |= {name: getattr(args, name) for name in ("temperature", "top_k", "top_p")}
    return options
