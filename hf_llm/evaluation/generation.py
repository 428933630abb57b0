"""Completions for a list of prompts, and the likelihood of given ones: on one rank or many, under any ZeRO stage."""

import contextlib
import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from hf_llm.arguments import GenerateArguments
from hf_llm.data.infilling import infilling_prompts
from hf_llm.data.prompting import without_end
from hf_llm.distributed.zero import gathered_weights
from hf_llm.models.inspection import num_positions, takes_positions

BATCH_SIZE = 8  # prompts answered together


@contextlib.contextmanager
def ready_to_generate(model: torch.nn.Module):
    """The plain model with all its weights, in evaluation mode; mode and random state are as before afterwards.

    Args:
        model: a model, or the DeepSpeedEngine around it.

    Yields:
        The model, and whether all ranks must call it the same number of times (ZeRO-3, weights gathered by layer).
    """
    training = model.training
    with torch.random.fork_rng(), torch.no_grad(), gathered_weights(model) as (plain, in_step):
        plain.eval()
        try:
            yield plain, in_step
        finally:
            plain.train(training)


def batches_of(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first: memory that does not suffice is noticed at once.

    The batches do not depend on the number of ranks, and so neither do the results, to the last bit.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def share_of_rank(batches: list[list[int]], in_step: bool, label: str | None) -> Iterator[tuple[int, list[int]]]:
    """This rank's batches with their numbers, under a progress bar.

    Args:
        in_step: give every rank as many, the last of some for the second time.
        label: of the progress bar; None shows none.
    """
    state = PartialState()
    mine = list(enumerate(batches))[state.process_index :: state.num_processes]
    if in_step and len(mine) < -(-len(batches) // state.num_processes):
        mine.append((0, batches[0]))
    yield from tqdm(mine, desc=label, disable=label is None or not state.is_main_process)


def complete(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[list[int]],
    *,
    batch_size: int = 8,
    seed: int = 42,
    show_progress: bool = True,
    stop_strings: Sequence[str] = (),
    **options,
) -> list[str]:
    """Generate one completion for each prompt.

    Prompts are sorted by length and padded on the left; the ranks share the batches, and every rank gets all results,
    in the order of the prompts. A batch draws with a seed of its own, so that what is drawn does not depend on the
    number of ranks either.

    Args:
        model: on its device; or the DeepSpeedEngine around it. Every rank calls with the same prompts.
        prompts: texts, or token ids.
        stop_strings: end a completion, and are not part of it.
        options: what `model.generate` takes, e.g. `max_new_tokens`, `do_sample`, `temperature`, `top_k`, `top_p`.

    Returns:
        The completions without prompts and special tokens.

    Example:
        complete(model, tokenizer, ["The capital of France is"], max_new_tokens=5)
    """
    encoded = tokenize_prompts(tokenizer, prompts)
    texts = {}
    with ready_to_generate(model) as (plain, in_step):
        check_positions(plain, max(map(len, encoded)), options.get("max_new_tokens", 0))
        batches = batches_of(list(map(len, encoded)), batch_size)
        for number, batch in share_of_rank(batches, in_step, "Generating" if show_progress else None):
            torch.manual_seed(seed + number)
            rows = [{"input_ids": encoded[i]} for i in batch]
            inputs = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(plain.device)
            stop = StopAtText(tokenizer, inputs["input_ids"].shape[1], stop_strings)
            output = plain.generate(
                **inputs,
                stopping_criteria=[stop] if stop_strings else None,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
                synced_gpus=in_step,  # by itself it would wait for the other ranks under ZeRO-3 in any case
                **options,
            )
            for i, ids in zip(batch, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                texts[i] = cut_at(decode_completion(tokenizer, encoded[i], ids), stop_strings)
    texts = dict(gather_object(list(texts.items())))
    return [texts[i] for i in range(len(prompts))]


def check_positions(model: PreTrainedModel, prompt: int, new_tokens: int) -> None:
    """Refuse to write beyond the positions that the model has: what comes there is noise."""
    if prompt + new_tokens > num_positions(model):
        raise ValueError(
            f"`--max_new_tokens` {new_tokens} after a prompt of {prompt} tokens is beyond the model's "
            f"{num_positions(model)} positions: take fewer, or shorter prompts"
        )


def decode_completion(tokenizer: PreTrainedTokenizerBase, prompt: list[int], completion: list[int]) -> str:
    """The text that a completion adds to its prompt: some tokenizers take a first word's space away."""
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, prompt + completion))
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(completion, skip_special_tokens=True)


class StopAtText(StoppingCriteria):
    """Ends a row once its completion holds a stop string; transformers' own would stop at a line end before any word.

    Args:
        width: of the padded prompts, in tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int, stop_strings: Sequence[str]):
        self.tokenizer, self.width, self.stop_strings = tokenizer, width, stop_strings

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.width :], skip_special_tokens=True)
        return torch.tensor([cut_at(text, self.stop_strings) != text for text in texts], device=input_ids.device)


def cut_at(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first of the stop strings; white space that the text begins with does not stop it."""
    start = len(text) - len(text.lstrip())
    ends = [end for stop in stop_strings if (end := text.find(stop, start)) >= 0]
    return text[: min(ends, default=len(text))]


def log_likelihoods(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    completions: Sequence[list[list[int]]],
    *,
    batch_size: int = 8,
    show_progress: bool = True,
) -> list[list[float]]:
    """ln p(completion | prompt) in nats, summed over the completion's tokens, of every completion of every prompt.

    Args:
        model: as for `complete`.
        prompts: token ids, at least one.
        completions: of each prompt one or several, token ids.
    """
    found = {}
    label = "Ranking" if show_progress else None
    with ready_to_generate(model) as (plain, in_step):
        counts = list(map(len, completions))
        # Ranks that go in step must call the model equally often, and a state that is no cache serves one row alone.
        if in_step or plain._is_stateful or max(counts) == 1:
            places = [(i, j) for i, count in enumerate(counts) for j in range(count)]
            batches = batches_of([len(prompts[i]) + len(completions[i][j]) for i, j in places], batch_size)
            for _, batch in share_of_rank(batches, in_step, label):
                pairs = [(prompts[i], completions[i][j]) for i, j in (places[k] for k in batch)]
                found |= zip((places[k] for k in batch), score_pairs(plain, tokenizer, pairs), strict=True)
        else:
            batches = batches_of(list(map(len, prompts)), batch_size)
            for _, batch in share_of_rank(batches, in_step, label):
                choices = [(row, j) for row, i in enumerate(batch) for j in range(counts[i])]
                asked = [(row, completions[batch[row]][j]) for row, j in choices]
                scores = score_choices(plain, tokenizer, [prompts[i] for i in batch], asked, batch_size)
                found |= zip(((batch[row], j) for row, j in choices), scores, strict=True)
    found = dict(gather_object(list(found.items())))
    return [[found[i, j] for j in range(count)] for i, count in enumerate(counts)]


def score_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[list[int], list[int]]]
) -> list[float]:
    """ln p(completion | prompt) of pairs, each in a row of its own."""
    rows = [{"input_ids": prompt + completion} for prompt, completion in pairs]
    # On the right: positions count from 0 in every row, and no token sees the padding.
    inputs = tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(model.device)
    width, first = inputs["input_ids"].shape[1], min(len(prompt) for prompt, _ in pairs) - 1
    logits = model(**inputs, use_cache=False, logits_to_keep=width - first).logits
    scores = []
    for row, (prompt, completion) in enumerate(pairs):
        start, end = len(prompt), len(prompt) + len(completion)
        losses = torch.nn.functional.cross_entropy(
            logits[row, start - 1 - first : end - 1 - first].float(),
            inputs["input_ids"][row, start:end],
            reduction="none",
        )
        scores.append(-losses.double().sum().item())
    return scores


def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    choices: list[tuple[int, list[int]]],
    batch_size: int,
) -> list[float]:
    """ln p(completion | prompt) of choices, (number of the prompt, completion): each prompt is read once for all."""
    padded = tokenizer.pad([{"input_ids": ids} for ids in prompts], padding_side="left", return_tensors="pt")
    padded = padded.to(model.device)
    seen = padded["attention_mask"]
    read = model(**padded, **positions(model, seen), use_cache=True, logits_to_keep=1)
    first = read.logits[:, -1].float().log_softmax(-1)
    scores = [0.0] * len(choices)
    order = sorted(range(len(choices)), key=lambda i: -len(choices[i][1]))  # of like lengths together: little padding
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        part = [choices[i] for i in places]
        rows = torch.tensor([row for row, _ in part], device=model.device)
        answers = tokenizer.pad([{"input_ids": ids} for _, ids in part], padding_side="right", return_tensors="pt")
        ids, counted = (answers[key].to(model.device) for key in ("input_ids", "attention_mask"))
        sums = first[rows, ids[:, 0]].double()
        if ids.shape[1] > 1:
            cache = copy.deepcopy(read.past_key_values)  # the model adds to it
            cache.batch_select_indices(rows)
            mask = torch.cat([seen[rows], counted[:, :-1]], 1)
            given = {"attention_mask": mask, "past_key_values": cache} | positions(model, mask, ids.shape[1] - 1)
            logits = model(input_ids=ids[:, :-1], use_cache=True, **given).logits.float()
            labels = ids[:, 1:]
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            sums -= (losses.view(labels.shape).double() * counted[:, 1:]).sum(1)
        for place, score in zip(places, sums.tolist(), strict=True):
            scores[place] = score
    return scores


def positions(model: PreTrainedModel, mask: torch.Tensor, last: int | None = None) -> dict[str, torch.Tensor]:
    """`position_ids` of the last tokens under an attention mask (B, T), for a model that takes them."""
    if not takes_positions(model):
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -(last or mask.shape[1]) :]}


def as_chat(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Each prompt as the first turn of a chat, answered next."""
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(texts, add_special_tokens=False).input_ids


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str] | Sequence[list[int]]
) -> Sequence[list[int]]:
    """Token ids of each prompt; an empty one becomes the token that opens a document."""
    if not isinstance(prompts[0], str):
        return prompts
    return [without_end(ids, tokenizer) for ids in tokenizer(list(prompts)).input_ids]


def arrange_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]], chat: bool
) -> list[str] | list[list[int]]:
    """What `complete` takes for rows of `read_prompts`: as turns of a chat, or with what comes behind the middle.

    Raises:
        ValueError: some rows alone have a suffix, or the tokenizer has no tokens for it.
    """
    prompts, suffixes = [row["prompt"] for row in rows], [row["suffix"] for row in rows if "suffix" in row]
    if not suffixes:
        return as_chat(tokenizer, prompts) if chat else prompts
    if len(suffixes) < len(rows):
        raise ValueError(f"{len(suffixes)} of {len(rows)} prompts have a suffix: give one to all or none")
    return infilling_prompts(tokenizer, prompts, suffixes)


def read_prompts(args: GenerateArguments) -> list[dict[str, str]]:
    """Rows `{"prompt": str}`, or `{"prompt": str, "suffix": str}`, of the command line or `--prompt_file`.

    Raises:
        ValueError: neither or both are given, not as many suffixes as prompts, or the file cannot be read (the line
            is named).
    """
    if (args.prompt is None) == (args.prompt_file is None):
        raise ValueError("give either `--prompt` or `--prompt_file`")
    if args.suffix is not None and len(args.suffix) != len(args.prompt or []):
        raise ValueError(f"`--suffix` has {len(args.suffix)} texts: give one for each `--prompt`")
    if args.prompt is not None:
        rows = [{"prompt": prompt} for prompt in args.prompt]
        return (
            [row | {"suffix": suffix} for row, suffix in zip(rows, args.suffix, strict=True)] if args.suffix else rows
        )
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
        return [{"prompt": line} for _, line in lines]
    rows = []
    for number, line in lines:
        try:
            given = json.loads(line)
            rows.append({"prompt": given["prompt"]} | ({"suffix": given["suffix"]} if "suffix" in given else {}))
        except (ValueError, KeyError, TypeError):
            rows.append({"prompt": None})
        if not all(isinstance(text, str) for text in rows[-1].values()):
            raise ValueError(f'`{path}` line {number}: write {{"prompt": "..."}}, with a "suffix" to fill in between')
    return rows


def sampling_options(args: GenerateArguments) -> dict[str, float]:
    """What `model.generate` takes; sampling options only where tokens are drawn, since greedy search warns of them."""
    options = {name: getattr(args, name) for name in ("max_new_tokens", "num_beams", "repetition_penalty", "do_sample")}
    if args.do_sample:
        options |= {name: getattr(args, name) for name in ("temperature", "top_k", "top_p")}
    return options
