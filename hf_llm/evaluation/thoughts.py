"""Thoughts in generated text (`<think>...</think>`, channels): they have a budget of their own and are not scored."""

import re
from collections.abc import Sequence

import regex
import torch
from transformers import PreTrainedTokenizerBase

from hf_llm.evaluation.generation import StopRows, decode_completion, truncate_at

# Tags of R1, Qwen3, GLM, Granite and Seed, of OpenThinker, Magistral, Command A, Kimi and Gemma, and the channels of
# gpt-oss.
TAGS = r"(?:seed:)?(?:think|thinking|thought|reasoning)>"
THOUGHT_BEGIN = regex.compile(
    rf"<{TAGS}|<\|begin_of_thought\|>|\[THINK\]|<\|START_THINKING\|>"
    r"|◁think▷|<\|channel>thought|<\|channel\|>(?:analysis|commentary)"
)
THOUGHT_END = re.compile(
    rf"</{TAGS}|<\|end_of_thought\|>|\[/THINK\]|<\|END_THINKING\|>|◁/think▷|<channel\|>"
    r"|<\|channel\|>final(?:[^<]|<\|constrain\|>)*<\|message\|>"
)
WRAPPED = re.compile(  # an answer after a thought
    r"\s*<(?:(response|answer)|\|begin_of_solution\|)>(.*?)(?:</\1>.*|<\|end_of_solution\|>.*)?$", re.DOTALL
)
MARK_TOKENS = 40  # more than any mark has: a token is at least one byte


def begins_thought(prompt: str) -> bool:
    """Whether a prompt ends with the beginning of a thought, as the chat templates of R1 and Qwen3.5 do."""
    return any(not prompt[mark.end() :].strip() for mark in THOUGHT_BEGIN.finditer(prompt))


def split_thought(text: str, begun: bool = False) -> tuple[str, str]:
    """Split a completion into the answer after its last thought, and the rest.

    Args:
        begun: whether the prompt begins a thought.

    Returns:
        Answer and thought. The answer is empty if the thought has no end; the thought is empty if there is none.

    Example:
        >>> split_thought("<think>2 + 2</think>4")
        ('4', '<think>2 + 2</think>')
    """
    ends = [mark.end() for mark in THOUGHT_END.finditer(text)]
    if begun and not ends:
        return "", text
    start = ends[-1] if ends else 0
    another = THOUGHT_BEGIN.search(text, start)
    end = another.start() if another else len(text)
    answer, thought = text[start:end], text[:start] + text[end:]
    wrapped = WRAPPED.match(answer) if thought else None
    return wrapped[2] if wrapped else answer, thought


def decode_answer(tokenizer: PreTrainedTokenizerBase, prompt: list[int], completion: list[int]) -> tuple[str, str]:
    """Decode a completion as answer and thought; see `split_thought`."""
    # With special tokens, which the marks may be.
    prompt_end, text = tokenizer.batch_decode([prompt[-MARK_TOKENS:], completion])
    begun = begins_thought(prompt_end)
    answer, thought = split_thought(text, begun)
    if not (thought or begun):
        return decode_completion(tokenizer, prompt, completion), ""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            answer = answer.replace(token.content, "")
    return answer, thought


class StopAfterAnswer(StopRows):
    """Ends a row when its thoughts or its answer are as long as they may be, or at a stop string in the answer.

    Args:
        answer_tokens: the most tokens of an answer, not counting the thoughts before it.
        thought_tokens: the most tokens of thoughts; a row whose thoughts are longer has no answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_strings: Sequence[str],
        answer_tokens: int,
        thought_tokens: int,
    ):
        self.tokenizer, self.stop_strings = tokenizer, stop_strings
        self.answer_tokens, self.thought_tokens = answer_tokens, thought_tokens

    def start(self, prompts, width):
        super().start(prompts, width)
        ends = self.tokenizer.batch_decode([prompt[-MARK_TOKENS:] for prompt in prompts])
        self.thinking = [begins_thought(text) for text in ends]
        self.answer_starts = [0] * len(prompts)  # in tokens of the completion

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        completions = input_ids[:, self.width :].tolist()
        ends = self.tokenizer.batch_decode([ids[-MARK_TOKENS:] for ids in completions])
        done = [self.is_done(row, *each) for row, each in enumerate(zip(completions, ends, strict=True))]
        return torch.tensor(done, device=input_ids.device)

    def is_done(self, row: int, ids: list[int], end: str) -> bool:
        """Whether the completion of a row is complete.

        Args:
            ids: the completion.
            end: the text of its last tokens.
        """
        marks = (THOUGHT_BEGIN, THOUGHT_END)
        last_begin, last_end = (max((found.end() for found in mark.finditer(end)), default=0) for mark in marks)
        if last_begin > last_end:
            self.thinking[row] = True
        elif last_end and self.thinking[row]:
            self.thinking[row], self.answer_starts[row] = False, len(ids)
        if self.thinking[row]:
            return len(ids) >= self.thought_tokens
        answer = ids[self.answer_starts[row] :]
        if len(answer) >= self.answer_tokens:
            text = self.tokenizer.batch_decode([answer])[0].strip()
            # Not within a mark of many tokens.
            return not (text and THOUGHT_BEGIN.fullmatch(text, partial=True))
        (text,) = self.tokenizer.batch_decode([answer], skip_special_tokens=True)
        return truncate_at(text, self.stop_strings) != text
