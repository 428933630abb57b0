"""Prompts and completions are tokenized as within the whole text, by the chat template if there is one."""

import pytest
from tiny import new_tokenizer
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from hf_llm.data.prompting import Prompter
from hf_llm.tasks import load_task

TOKENIZER = new_tokenizer()
TASK = load_task("summarization")
CHAT = (
    "{% for m in messages %}<|bos|>{{ m.content }}<|eos|>{% endfor %}{% if add_generation_prompt %}<|bos|>{% endif %}"
)


def test_the_chat_template_is_used_if_there_is_one_and_its_end_token_is_trained_on():
    """By default; `--prompt_style chat` is refused without a template."""
    tokenizer = new_tokenizer()
    with pytest.raises(ValueError, match="has no template; use plain"):
        Prompter(tokenizer, TASK, 512, "chat")
    tokenizer.chat_template = CHAT
    prompter = Prompter(tokenizer, TASK, 512)
    (prompt,), (completion,) = (
        prompter.prompt_ids([{"prompt": "A question?"}]),
        prompter.completion_ids([{"prompt": "A question?", "completion": "An answer"}]),
    )
    assert tokenizer.decode(prompt + completion) == "<|bos|>A question?<|eos|><|bos|>An answer<|eos|>"


def test_the_first_special_token_after_an_answer_ends_it():
    """Phi-3 puts a line end and the end-of-sequence token after its end of turn."""
    template = "{% for m in messages %}<|bos|>{{ m.content }}<|pad|>\n{% endfor %}<|eos|>"
    tokenizer = new_tokenizer()
    tokenizer.chat_template = template
    prompter = Prompter(tokenizer, TASK, 512)
    assert prompter.end == "<|pad|>"


def test_a_completion_has_the_same_ids_as_after_its_prompt():
    """On its own, a SentencePiece tokenizer would put a space before its first word."""
    words = {"▁Answer": 0, ":": 1, "▁": 2, "▁Paris": 3, "Paris": 4, "<eos>": 5, "<unk>": 6}
    backend = Tokenizer(models.Unigram([(word, -float(len(word) < 2)) for word in words], unk_id=6))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    assert tokenizer("Answer: Paris").input_ids == [0, 1, 3]
    prompter = Prompter(tokenizer, TASK, 512)
    assert prompter.completion_ids([{"prompt": "Answer:", "completion": "Paris"}], end=False) == [[3]]
    assert prompter.completion_ids([{"prompt": "Answer:", "completion": "Paris"}])[0][-1] == tokenizer.eos_token_id
