"""Answers to the prompts of a task: generated, without the thoughts before them."""

import logging
from typing import Any

import torch

from hf_llm.data.prompting import Prompter
from hf_llm.evaluation.generation import generate_ids, truncate_at
from hf_llm.evaluation.sampling import Sampling
from hf_llm.evaluation.thoughts import StopAfterAnswer, decode_answer
from hf_llm.models.inspection import end_token_ids, num_positions

logger = logging.getLogger(__name__)

# Set explicitly: a model's generation_config may hold a penalty of repetition, by which answers avoid the context.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}


def generate_answers(
    model: torch.nn.Module,
    prompter: Prompter,
    prompts: list[list[int]],
    sampling: Sampling | None = None,
    **options,
) -> tuple[list[list[str]], list[list[str]]]:
    """Generate one answer to each prompt by greedy search, or several by sampling.

    Answer j to row i of N is sampled as row j * N + i: more samples begin with those of fewer.

    Args:
        prompter: made the prompts.
        prompts: token ids of N prompts.
        options: `batch_size` and `show_progress`, as for `complete`.

    Returns:
        The answers to each of the N rows, and the thoughts before them, mostly empty.

    Raises:
        ValueError: prompt and answer exceed the positions of the model.
    """
    task = prompter.task
    plain: Any = getattr(model, "module", model)
    longest, positions = max(map(len, prompts)), num_positions(model)
    room = positions - longest - task.max_new_tokens
    if room < 0:
        raise ValueError(
            f"an answer of `max_new_tokens` {task.max_new_tokens} after a prompt of {longest} tokens is beyond the "
            f"model's {positions} positions: give `--max_length` {positions} or less"
        )
    ends = end_token_ids(plain, prompter.tokenizer, prompter.end)
    thought_tokens = int(min(task.max_thought_tokens, room))  # the same for all rows, so that no batch matters
    stop_strings = () if prompter.format else task.stop_strings
    criteria = StopAfterAnswer(prompter.tokenizer, stop_strings, task.max_new_tokens, thought_tokens)
    options |= GREEDY | (sampling.options() if sampling else {})
    options |= {"max_new_tokens": task.max_new_tokens + thought_tokens, "eos_token_id": ends}
    repeated = [*prompts] * (sampling.num_samples if sampling else 1)
    completions = generate_ids(model, prompter.tokenizer, repeated, criteria=criteria, **options)
    pairs = [decode_answer(prompter.tokenizer, *each) for each in zip(repeated, completions, strict=True)]
    texts, thoughts = ([*each] for each in zip(*pairs, strict=True))
    whole = [text.removeprefix(prompter.opening) for text in texts]
    texts = [truncate_at(text, stop_strings) for text in whole]
    stopped = [text != each for text, each in zip(texts, whole, strict=True)]
    pairs = zip(completions, stopped, thoughts, strict=True)
    if cut := sum(len(ids) >= task.max_new_tokens and not (stop or thought) for ids, stop, thought in pairs):
        limit = f"`max_new_tokens` {task.max_new_tokens}, which `--task_options` may raise"
        logger.info(f"{cut} of {len(texts)} answers are not finished within {limit}")
    thinking = sum(map(bool, thoughts))
    if empty := sum(bool(thought) and not text.strip() for text, thought in zip(texts, thoughts, strict=True)):
        more = "more by `max_thought_tokens` in `--task_options`"
        remedy = "a smaller `--max_length`" if thought_tokens == room else more
        logger.warning(
            f"{empty} of {thinking} thoughts end without an answer, within {thought_tokens} tokens: give {remedy}"
        )
    rows = range(len(prompts))
    return [texts[i :: len(prompts)] for i in rows], [thoughts[i :: len(prompts)] for i in rows]
