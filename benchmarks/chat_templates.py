"""What is trained with the chat templates of real models: equal to the template's own rendering, or refused.

python benchmarks/chat_templates.py

The templates are those of models in TRL's package, and shapes of other well-known ones, written here.
Prints a Markdown table: the text between the prompt and the answer A and after it, or what is refused and the remedy.
The tokenizer has bytes and the templates' marks as tokens; equality is that of token ids, by transformers alone.
"""

import importlib.resources
import re

from datasets import Dataset
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_llm.data.chats import as_lists
from hf_llm.data.examples import encode_examples
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.prompting import Prompter
from hf_llm.tasks import load_task

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LOOP = "{% for m in messages %}"
END_LOOP = "{% endfor %}{% if add_generation_prompt %}START{% endif %}"
MARK = r"</?s>|<\|?[^<>\s]{1,40}\|?>|<｜[^<>]{1,30}｜>|\[/?[A-Z_]{3,20}\]"  # of turns, thoughts and channels


def by_role(user: str, assistant: str, start: str, first: str = "") -> str:
    """A template with a text for each role, in which C is the content."""
    content = "{{ m.content }}"
    turns = f"{{% if m.role == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}".replace("C!", content)
    return first + LOOP + turns + END_LOOP.replace("START", start)


SHAPES = {
    "ChatML without generation prompt": LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "Llama 2": by_role("{{ bos_token }}[INST] C! [/INST]", " C! {{ eos_token }}", ""),
    "Llama 4": by_role(
        "<|header_start|>user<|header_end|>\n\nC!<|eot|>",
        "<|header_start|>assistant<|header_end|>\n\nC!<|eot|>",
        "<|header_start|>assistant<|header_end|>\n\n",
        "{{ bos_token }}",
    ),
    "Mistral 7B v0.1": by_role("[INST] C! [/INST]", "C!{{ eos_token }} ", "", "{{ bos_token }}"),
    "Mistral 7B v0.3": by_role("[INST] C![/INST]", " C!{{ eos_token }}", "", "{{ bos_token }}"),
    "Mistral Small 3": by_role(
        "[INST]C![/INST]",
        "C!{{ eos_token }}",
        "",
        "{{ bos_token }}[SYSTEM_PROMPT]Today is {{ strftime_now('%Y-%m-%d') }}.[/SYSTEM_PROMPT]",
    ),
    "Zephyr": by_role("<|user|>\nC!{{ eos_token }}\n", "<|assistant|>\nC!{{ eos_token }}\n", "<|assistant|>\n"),
    "Vicuna": by_role("USER: C! ", "ASSISTANT: C!{{ eos_token }}", "ASSISTANT:", "A chat. "),
    "Alpaca": by_role("### Instruction:\nC!\n\n", "### Response:\nC!{{ eos_token }}\n\n", "### Response:\n"),
    "Falcon": by_role("User: C!\n", "Falcon: C!\n", "Falcon:"),
    "Yi": by_role(
        "<|im_start|>user\nC!<|im_end|>\n", "<|im_start|>assistant\nC!<|im_end|>\n", "<|im_start|>assistant\n"
    ),
    "InternLM 2": by_role(
        "<|im_start|>user\nC!<|im_end|>\n",
        "<|im_start|>assistant\nC!<|im_end|>\n",
        "<|im_start|>assistant\n",
        "{{ bos_token }}",
    ),
    "Phi-4": by_role(
        "<|im_start|>user<|im_sep|>C!<|im_end|>",
        "<|im_start|>assistant<|im_sep|>C!<|im_end|>",
        "<|im_start|>assistant<|im_sep|>",
    ),
    "OLMo 2": by_role("<|user|>\nC!\n", "<|assistant|>\nC!{{ eos_token }}", "<|assistant|>\n", "{{ bos_token }}"),
    "Granite 3": by_role(
        "<|start_of_role|>user<|end_of_role|>C!{{ eos_token }}\n",
        "<|start_of_role|>assistant<|end_of_role|>C!{{ eos_token }}\n",
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|start_of_role|>system<|end_of_role|>Today's Date: {{ strftime_now('%B %d, %Y') }}.{{ eos_token }}\n",
    ),
    "SmolLM 2": by_role(
        "<|im_start|>user\nC!<|im_end|>\n",
        "<|im_start|>assistant\nC!<|im_end|>\n",
        "<|im_start|>assistant\n",
        "<|im_start|>system\nYou are helpful<|im_end|>\n",
    ),
    "SmolLM 3": by_role(
        "<|im_start|>user\nC!<|im_end|>\n",
        "<|im_start|>assistant\n{% if not enable_thinking | default(true) %}<think>\n\n</think>\n{% endif %}"
        "C!<|im_end|>\n",
        "<|im_start|>assistant\n{% if not enable_thinking | default(true) %}<think>\n\n</think>\n{% endif %}",
    ),
    "DeepSeek V2": by_role("User: C!\n\n", "Assistant: C!{{ eos_token }}", "Assistant:", "{{ bos_token }}"),
    "DeepSeek V3.1": by_role(
        "<｜User｜>C!",
        "<｜Assistant｜></think>C!<｜end▁of▁sentence｜>",
        "<｜Assistant｜>{% if thinking %}<think>{% else %}</think>{% endif %}",
        "{{ bos_token }}",
    ),
    "QwQ": by_role(
        "<|im_start|>user\nC!<|im_end|>\n",
        "<|im_start|>assistant\n{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n",
    ),
    "ChatGLM 3": by_role("<|user|>\n C!", "<|assistant|>\n C!", "<|assistant|>", "[gMASK]sop"),
    "Hunyuan": by_role("<｜hy_User｜>C!", "<｜hy_Assistant｜>C!<｜hy_end｜>", "<｜hy_Assistant｜>", "<｜hy_begin｜>"),
    "Kimi K2": by_role(
        "<|im_user|>user<|im_middle|>C!<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>C!<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    "Baichuan 2": by_role("<reserved_106>C!", "<reserved_107>C!", "<reserved_107>"),
}


def tokenizer_of(template: str) -> PreTrainedTokenizerBase:
    """A tokenizer of bytes and pairs of line ends, split as by Llama 3 and Qwen, with the template's marks."""
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters | {"ĊĊ": 256}, merges=[("Ċ", "Ċ")]))
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence([split, bytes_only]), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    marks = [mark for mark in dict.fromkeys(re.findall(MARK, template)) if mark not in ("<s>", "</s>")]
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.chat_template = template
    return tokenizer


def whole_ids(prompter: Prompter, chat: list[dict[str, str]]) -> list[int]:
    """Token ids of a chat by transformers alone."""
    options = {"tokenize": False, **{k: v for k, v in prompter.format.variables.items() if k != "strftime_now"}}
    texts = []
    for form in (chat, as_lists(chat)):
        try:
            text = prompter.tokenizer.apply_chat_template(form, **options)
        except Exception:  # templates raise any class of error
            continue
        texts += [text] if all(message["content"] in text for message in chat) and "'type'" not in text else []
    return prompter.tokenizer(texts[0], add_special_tokens=False).input_ids


def verdict(template: str, **variables) -> tuple[str, str]:
    """The verdict on a template, and what is trained or why it is refused."""
    task = load_task("summarization")
    rows = Dataset.from_list([{"document": f"Text {i}.", "summary": f"It ends {i}."} for i in range(3)])
    try:
        prompter = Prompter(tokenizer_of(template), task, 4096, PromptSettings(template_kwargs=variables))
        features, _ = encode_examples(rows, prompter)
    except ValueError as error:
        *_, problem, remedy = str(error).split(": ")
        if switch := re.search(r"_kwargs (\w+)=(\w+)`, with", remedy):
            value = {"true": True, "false": False}.get(switch[2], switch[2])
            result, trained = verdict(template, **{switch[1]: value})
            return f"refused; {result} with `{switch[1]}={switch[2]}`", trained
        return "refused", re.sub(r"^.*?the chat template ", "", f"{problem}")
    for row, example in zip(rows, features, strict=True):
        whole = whole_ids(prompter, prompter.format.conversation(task.to_example(row))["messages"])
        added = prompter.tokenizer.convert_tokens_to_ids([prompter.format.missing_end]) * bool(
            prompter.format.missing_end
        )
        ids = example["input_ids"]
        if prompter.tokenizer.decode(ids) != prompter.tokenizer.decode(whole + added):
            return "DIFFERS", prompter.tokenizer.decode(ids)
    text = prompter.tokenizer.decode([label for label in example["labels"] if label != -100])
    note = f", and `{prompter.format.missing_end}`, which the template leaves out" * bool(prompter.format.missing_end)
    trained = text.removesuffix(prompter.format.missing_end).replace(row["summary"], "A")
    return "equal" if ids == whole + added else "equal text, encoded apart", f"`{trained!r}`{note}"


def main():
    folder = importlib.resources.files("trl") / "chat_templates"
    edited = "_training.jinja"  # by TRL, for its own way to train
    files = sorted(f for f in folder.iterdir() if f.name.endswith(".jinja") and not f.name.endswith(edited))
    templates = {f"{file.name.removesuffix('.jinja')} (TRL)": file.read_text() for file in files} | SHAPES
    print("| Template | Verdict | What is trained, or the reason |\n|---|---|---|")
    for name, template in templates.items():
        print(f"| {name} | {' | '.join(text.replace('|', chr(92) + '|') for text in verdict(template))} |")


if __name__ == "__main__":
    main()
