"""Prompts and completions are tokenized as within the whole text, by the chat template if there is one."""

import pytest
from tiny import new_tokenizer
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from hf_llm.arguments import TaskArguments
from hf_llm.data.chats import render_chats
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.prompting import Prompter, add_chat_template, set_chat_template
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
        Prompter(tokenizer, TASK, 512, PromptSettings("chat"))
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


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2]}}}
CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Will it rain?"},
        {"role": "assistant", "content": "", "reasoning_content": "I must look.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "No."},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
}
CHATML = """<|bos|><|im_start|>system
Be brief.

You can call these functions:
<tools>
{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
</tools>
To call one, give its name and arguments:
<tool_call>
{"name": NAME, "arguments": {ARGUMENTS}}
</tool_call><|im_end|>
<|im_start|>user
Will it rain?<|im_end|>
<|im_start|>assistant
<think>
I must look.
</think>

<tool_call>
{"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2]}}
</tool_call>
<tool_call>
{"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2]}}
</tool_call><|im_end|>
<|im_start|>tool
sun<|im_end|>
<|im_start|>assistant
No.<|im_end|>
"""
ALPACA = """<|bos|>Below is an instruction that describes a task. \
Write a response that appropriately completes the request.

### Instruction:
Will it rain?

### Response:
No.<|eos|>

"""


def test_the_built_in_templates_write_all_of_a_conversation():
    """ChatML with its marks as new tokens, which are one id each, and tools; Alpaca without either, which it says."""
    tokenizer, new = add_chat_template(TOKENIZER, TaskArguments("generation", chat_template="chatml"))
    assert new == {
        300: TOKENIZER("<|im_start|>", add_special_tokens=False).input_ids,
        301: TOKENIZER("<|im_end|>", add_special_tokens=False).input_ids,
    }
    assert render_chats(tokenizer, [CONVERSATION]) == [CHATML]
    assert Prompter(tokenizer, TASK, 512).end == "<|im_end|>"
    assert add_chat_template(tokenizer, TaskArguments("generation", chat_template="chatml"))[1] == {}
    tokenizer.bos_token = "<|im_start|>"  # as SmolLM2 has it: not written twice
    assert render_chats(tokenizer, [CONVERSATION]) == [CHATML.removeprefix("<|bos|>")]
    tokenizer, new = add_chat_template(new_tokenizer(), TaskArguments("generation", chat_template="alpaca"))
    turns = [CONVERSATION["messages"][1], CONVERSATION["messages"][-1]]
    assert render_chats(tokenizer, [{"messages": turns, "tools": None}]) == [ALPACA]
    assert (Prompter(tokenizer, TASK, 512).end, new) == ("<|eos|>", {})
    for change in ({"tools": None}, {"messages": turns}):
        with pytest.raises(ValueError, match=r"it has no form for tool.*: give `--chat_template chatml`"):
            render_chats(tokenizer, [CONVERSATION | change])


def test_a_model_without_the_tokens_of_a_built_in_template_is_said_to_read_them_as_text(caplog):
    """Only training adds tokens; an unknown name is answered by those that there are."""
    set_chat_template(tokenizer := new_tokenizer(), TaskArguments("generation", chat_template="chatml"))
    assert "<|im_start|> and <|im_end|> are no tokens of" in caplog.text
    assert len(tokenizer) == 300
    with pytest.raises(
        ValueError, match="chatlm cannot be read: there is no such file; alpaca and chatml are built in"
    ):
        set_chat_template(tokenizer, TaskArguments("generation", chat_template="chatlm"))


def test_a_system_prompt_is_put_before_chats_without_a_system_message():
    """Before few-shot examples and conversations too. Plain prompts and templates that drop it are refused."""
    tokenizer, _ = add_chat_template(TOKENIZER, TaskArguments("generation", chat_template="chatml"))
    shots = [{"prompt": "1 + 1", "completion": "2"}]
    prompter = Prompter(tokenizer, TASK, 512, PromptSettings(shots=shots, system_prompt="Be kind."))
    own = "<|bos|><|im_start|>system\nBe brief."
    given = "<|bos|><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    turns = CONVERSATION["messages"]
    examples = [
        {"prompt": "2 + 2", "completion": "4"},
        {"prompt": "2 + 2", "completion": "4", "system": "Be brief."},
        {"messages": [turns[1], turns[-1]], "tools": None},
        CONVERSATION,
    ]
    starts = [given + "1 + 1", own, given + "Will it rain?", own]
    texts = prompter.prompt_texts(examples)
    assert [text[: len(start)] for text, start in zip(texts, starts, strict=True)] == starts
    with pytest.raises(ValueError, match=r"`--system_prompt` has no effect on plain prompts: .* chatml"):
        Prompter(TOKENIZER, TASK, 512, PromptSettings(system_prompt="Be kind."))
    tokenizer.chat_template = CHAT.replace("%}<|bos|>{{", "if m.role != 'system' %}<|bos|>{{", 1)
    with pytest.raises(ValueError, match=r"`--system_prompt`: the chat template of .* leaves it out"):
        Prompter(tokenizer, TASK, 512, PromptSettings(system_prompt="Be kind."))
