"""Log-likelihoods of given completions: on one rank or many, under any ZeRO stage."""

import copy
from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_llm.evaluation.generation import BATCH_SIZE, batch_by_length, evaluation_mode, rank_batches
from hf_llm.models.inspection import takes_positions

CompletionScores = dict[tuple[int, int], float]  # (index of the prompt, index of its completion) -> ln p in nats


def log_likelihoods(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    completions: Sequence[list[list[int]]],
    *,
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> list[list[float]]:
    """Compute ln p(completion | prompt) in nats, summed over the completion's tokens.

    Args:
        model: a model on its device, or the DeepSpeedEngine around it. Every rank must call with the same prompts.
        prompts: token ids of N prompts, at least one token each.
        completions: for each prompt the token ids of one or several completions.
        batch_size: rows per forward pass.

    Returns:
        For each prompt the log-likelihoods of its completions, on every rank.
    """
    label = "Ranking" if show_progress else None
    with evaluation_mode(model) as (plain, synced_ranks):
        # Ranks in lockstep must call the model equally often; a state that is not a cache cannot be repeated for rows.
        by_pair = synced_ranks or plain._is_stateful or max(map(len, completions)) == 1
        score = score_by_pair if by_pair else score_by_prompt
        scores = score(plain, tokenizer, prompts, completions, batch_size, synced_ranks, label)
    scores = dict(gather_object(list(scores.items())))
    return [[scores[i, j] for j in range(len(choices))] for i, choices in enumerate(completions)]


def score_by_pair(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    completions: Sequence[list[list[int]]],
    batch_size: int,
    synced_ranks: bool,
    label: str | None,
) -> CompletionScores:
    """Score this rank's share of the completions, with one row of prompt and completion for each."""
    keys = [(i, j) for i, choices in enumerate(completions) for j in range(len(choices))]
    batches = batch_by_length([len(prompts[i]) + len(completions[i][j]) for i, j in keys], batch_size)
    scores = {}
    for batch in rank_batches(batches, synced_ranks, label):
        batch_keys = [keys[k] for k in batch]
        pairs = [(prompts[i], completions[i][j]) for i, j in batch_keys]
        scores |= zip(batch_keys, score_pairs(model, tokenizer, pairs), strict=True)
    return scores


def score_by_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    completions: Sequence[list[list[int]]],
    batch_size: int,
    synced_ranks: bool,
    label: str | None,
) -> CompletionScores:
    """Score this rank's share of the completions, with one forward pass over each prompt for all its completions."""
    scores = {}
    for batch in rank_batches(batch_by_length(list(map(len, prompts)), batch_size), synced_ranks, label):
        keys = [(i, j) for i in batch for j in range(len(completions[i]))]
        choices = [(batch.index(i), completions[i][j]) for i, j in keys]
        scores |= zip(
            keys, score_choices(model, tokenizer, [prompts[i] for i in batch], choices, batch_size), strict=True
        )
    return scores


def score_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[list[int], list[int]]]
) -> list[float]:
    """Compute ln p(completion | prompt) of each pair in one batch.

    For the prompt [5, 6, 7] and the completion [8, 9] the row is [5, 6, 7, 8, 9]: the logits at positions 2 and 3
    predict 8 and 9. If the shortest prompt of the batch has 2 tokens, the model returns only the logits from
    position 1 on: `first` is 1, and those of positions 2 and 3 are at the indices 1 and 2.
    """
    rows = [{"input_ids": prompt + completion} for prompt, completion in pairs]
    # Padded on the right: positions count from 0 in every row, and no token attends to the padding.
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
    """Compute ln p(completion | prompt) of choices, with one forward pass over the prompts and a copy of its cache.

    For the prompt [5, 6, 7] and the choice [8, 9, 4] the logits at position 2 of the prompt predict 8. With the
    prompt in the cache, the model then reads [8, 9], at positions 3 and 4, and predicts [9, 4].

    Args:
        choices: (index of the prompt, token ids of the completion).
    """
    padded = tokenizer.pad([{"input_ids": ids} for ids in prompts], padding_side="left", return_tensors="pt")
    padded = padded.to(model.device)
    prompt_mask = padded["attention_mask"]
    output = model(**padded, **position_arguments(model, prompt_mask), use_cache=True, logits_to_keep=1)
    first_log_probs = output.logits[:, -1].float().log_softmax(-1)
    scores = [0.0] * len(choices)
    order = sorted(range(len(choices)), key=lambda i: -len(choices[i][1]))  # similar lengths together: little padding
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = torch.tensor([choices[i][0] for i in batch], device=model.device)
        completions = [{"input_ids": choices[i][1]} for i in batch]
        answers = tokenizer.pad(completions, padding_side="right", return_tensors="pt")
        ids, mask = (answers[key].to(model.device) for key in ("input_ids", "attention_mask"))
        sums = first_log_probs[rows, ids[:, 0]].double()
        if ids.shape[1] > 1:
            cache = copy.deepcopy(output.past_key_values)  # the model appends to it
            cache.batch_select_indices(rows)
            whole_mask = torch.cat([prompt_mask[rows], mask[:, :-1]], 1)
            inputs = {"attention_mask": whole_mask} | position_arguments(model, whole_mask, ids.shape[1] - 1)
            logits = model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, **inputs).logits.float()
            labels = ids[:, 1:]
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            sums -= (losses.view(labels.shape).double() * mask[:, 1:]).sum(1)
        for i, score in zip(batch, sums.tolist(), strict=True):
            scores[i] = score
    return scores


def position_arguments(
    model: PreTrainedModel, mask: torch.Tensor, num_tokens: int | None = None
) -> dict[str, torch.Tensor]:
    """`position_ids` of the last `num_tokens` tokens of left-padded rows, if the model takes them.

    The attention mask [0, 0, 1, 1, 1] gives the positions [0, 0, 0, 1, 2], and [1, 2] for `num_tokens=2`.

    Args:
        mask: attention mask (B, T), 0 on padding.
        num_tokens: default: all T.
    """
    if not takes_positions(model):
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -(num_tokens or mask.shape[1]) :]}
