"""A conversation with a model in the terminal: its answers while they are written, its history, a few commands."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import regex
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from hf_llm.arguments import ChatArguments
from hf_llm.data.prompting import new_chat_format, prompt_settings, set_chat_template
from hf_llm.evaluation.generation import generate_ids, tokenize_prompts
from hf_llm.evaluation.thoughts import MARK_TOKENS, THOUGHT_BEGIN, THOUGHT_END, StopAfterAnswer, decode_answer
from hf_llm.files import write_json_lines
from hf_llm.messages import escape_controls, one_line
from hf_llm.models.inspection import end_token_ids, num_positions

COMMANDS = "/reset forgets the conversation, /save FILE writes it, /exit or Ctrl-D ends"
QUOTES = '"""'  # around a message of several lines
THOUGHT_MARKS = regex.compile(
    rf"{THOUGHT_BEGIN.pattern}|{THOUGHT_END.pattern}|</?(?:response|answer)>|<\|(?:begin|end)_of_solution\|>"
)
# What the model's generation_config.json says unless a flag does.
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")


class Talk:
    """A conversation with a model.

    Answers are written to stdout while they are generated, thoughts and notes to stderr.

    Args:
        model: on its device.
        tokenizer: the model's, with the chat template to use; without one, each message is completed by itself.
        args: system prompt, lengths and sampling.

    Attributes:
        messages: all messages so far, `{"role": str, "content": str}`, with the thoughts as `reasoning_content`.

    Raises:
        ValueError: the chat template fails, takes no system message, or does not read a variable.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, args: ChatArguments):
        if PartialState().num_processes > 1:
            raise ValueError("a conversation needs one process: start `recipes/chat.py` by `python`")
        self.model, self.tokenizer, self.args = model, tokenizer, args
        self.interactive = args.message is None and sys.stdin.isatty()
        set_chat_template(tokenizer, args)
        self.format = new_chat_format(tokenizer, prompt_settings(args))
        if self.format is None:
            note("no chat template: each message is completed by itself, without those before it")
        self.ends = end_token_ids(model, tokenizer, self.format.end if self.format else f"{tokenizer.eos_token}")
        self.options = {name: value for name in SAMPLING if (value := getattr(args, name)) is not None}
        self.answers, self.saved = 0, set()
        self.reset()
        self.prompt([*self.messages, {"role": "user", "content": "a message"}])  # the template may refuse the system's

    def reset(self) -> None:
        """Forget all messages but the system's."""
        system = self.args.system_prompt
        self.messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self.forgotten = 0  # oldest messages, without the system's, that have no room any more

    def take(self, line: str) -> None:
        """Answer a message, or obey a command.

        Raises:
            ValueError: it cannot be done, and the messages are not from a terminal.
        """
        try:
            if command := re.fullmatch(r"/([a-z]+)(?:\s+(.*))?", line):
                self.obey(*command.groups())
            else:
                self.answer(line)
        except ValueError as error:
            if not self.interactive:
                raise
            print(f"error: {one_line(error)}", file=sys.stderr)

    def obey(self, command: str, argument: str | None) -> None:
        """Do what a command says.

        Raises:
            ValueError: it is not known, or the file cannot be written.
        """
        if command == "reset" and not argument:
            self.reset()
            note("the conversation is forgotten")
        elif command == "save" and argument:
            self.save(argument)
        elif command == "help":
            note(f"{COMMANDS}; {QUOTES} begins and ends a message of several lines")
        else:
            shown = f"/{command}{' ' * bool(argument)}{argument or ''}"
            raise ValueError(f"`{shown}` is not a command: {COMMANDS}; with a space before it, it is a message")

    def save(self, name: str) -> None:
        """Write the conversation as a row of JSON Lines, as `--task chat` reads it.

        Raises:
            ValueError: the file exists, and not from this conversation, or cannot be written.
        """
        path = Path(name).expanduser().absolute()
        if path.exists() and path not in self.saved:
            raise ValueError(f"`/save` {name} exists: name another file")
        try:
            write_json_lines(f"{path}", [{"messages": self.messages}])
        except OSError as error:
            raise ValueError(f"`/save` {name} cannot be written: {one_line(error)}") from None
        self.saved.add(path)
        note(f"{len(self.messages)} messages written to {name}")

    def prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids of the prompt for an answer to the last message."""
        if self.format is None:
            return [*tokenize_prompts(self.tokenizer, [messages[-1]["content"]])[0]]
        (text,) = self.format.prompts([{"messages": messages, "tools": None}])
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def fitting_prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids of the prompt, without the oldest messages if it would leave no room for an answer.

        Half of the model's positions are enough for an answer and its thoughts.

        Raises:
            ValueError: the last message leaves no room by itself.
        """
        positions, args = num_positions(self.model), self.args
        most = positions - min(args.max_new_tokens + args.max_thought_tokens, positions // 2)
        first = args.system_prompt is not None
        starts = [i for i, message in enumerate(messages) if message["role"] == "user" and i >= first + self.forgotten]
        length = 0
        for start in starts:
            ids = self.prompt(messages[:first] + messages[start:])
            length = len(ids)
            if length <= most:
                if self.format and start > first + self.forgotten:
                    self.forgotten = start - first
                    note(f"the oldest {self.forgotten} messages are left out: the model has {positions} positions")
                return ids
        raise ValueError(f"the message makes a prompt of {length} tokens, of at most {most}: shorten it")

    def answer(self, text: str) -> None:
        """Send a message, and write its answer while it is generated; Ctrl-C stops it."""
        messages = [*self.messages, {"role": "user", "content": text}]
        ids, args = self.fitting_prompt(messages), self.args
        room = num_positions(self.model) - len(ids)
        tokens = int(min(args.max_new_tokens + args.max_thought_tokens, room))
        criteria = StopAfterAnswer(self.tokenizer, (), args.max_new_tokens, args.max_thought_tokens)
        options = self.options | {"max_new_tokens": tokens, "eos_token_id": self.ends}
        writer, stopped = AnswerWriter(self.tokenizer, ids, self.ends), False
        self.answers += 1
        try:
            seed = args.seed + self.answers  # or equal messages would always have equal answers
            generate_ids(self.model, self.tokenizer, [ids], 1, seed, False, criteria, streamer=writer, **options)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            stopped = True
        answer, thought = writer.finish()
        if stopped:
            note("stopped")
        elif not writer.ended:
            flag = "max_new_tokens" if answer or not thought else "max_thought_tokens"
            full = len(ids) + len(writer.ids) >= num_positions(self.model)
            note("the model's positions are full" if full else f"cut: `--{flag}` is {getattr(args, flag)}")
        if answer:
            thoughts = {"reasoning_content": thought} if thought else {}
            self.messages = [*messages, {"role": "assistant", "content": answer, **thoughts}]
        else:
            note("no answer: the message is left out of the conversation")


class AnswerWriter(BaseStreamer):
    """Writes an answer to stdout and its thoughts to stderr while `generate` makes their tokens.

    Args:
        prompt: token ids.
        ends: ids of the tokens that end an answer.

    Attributes:
        ids: the answer's, without the end.
        ended: whether the model has ended it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: list[int], ends: list[int]):
        self.tokenizer, self.prompt, self.ends = tokenizer, prompt[-MARK_TOKENS:], ends
        self.ids, self.ended, self.calls = [], False, 0
        self.written = {sys.stdout: "", sys.stderr: ""}
        self.last = sys.stdout

    def put(self, value):
        self.calls += 1
        tokens = value.flatten().tolist() if self.calls > 1 else []  # `generate` begins with the prompt
        self.ended = self.ended or not set(tokens).isdisjoint(self.ends)
        if not self.ended:
            self.ids += tokens
            answer, thought = self.texts()
            self.write(sys.stderr, settled(thought))
            self.write(sys.stdout, settled(answer))

    def end(self):
        """Do nothing: `finish` is called after an interruption too."""

    def texts(self) -> tuple[str, str]:
        """Answer and thought so far, the thought without its marks."""
        answer, thought = decode_answer(self.tokenizer, self.prompt, self.ids)
        thought = THOUGHT_MARKS.sub("", thought)
        for token in self.tokenizer.all_special_tokens:
            thought = thought.replace(token, "")
        return answer.lstrip(), thought.lstrip()

    def write(self, file: Any, text: str) -> None:
        """Write the text that follows what is written; text that has become another one is written anew."""
        written = self.written[file]
        if text == written or (file is sys.stderr and written.startswith(text)):
            return
        added = text.removeprefix(written) if text.startswith(written) else f"\n{text}"
        if file is not self.last and any(self.written.values()):
            added = f"\n\n{added}" if file.isatty() else added
        if file.isatty():  # no model can command a terminal
            added = escape_controls(added)
            added = f"\x1b[2m{added}\x1b[0m" if file is sys.stderr else added  # dim
        print(added, end="", file=file, flush=True)
        self.written[file], self.last = text, file

    def finish(self) -> tuple[str, str]:
        """Write the rest, and return the answer and its thought."""
        answer, thought = map(str.rstrip, self.texts())
        self.write(sys.stderr, thought)
        self.write(sys.stdout, answer)
        if thought and not (answer and sys.stderr.isatty()):
            print(file=sys.stderr, flush=True)
        print(flush=True)
        return answer, thought


def settled(text: str) -> str:
    """The start of a text that the next tokens cannot change: without half a character, mark, or white space.

    Example:
        >>> settled("4, so </thi")
        '4, so'
    """
    mark = THOUGHT_MARKS.search(text, partial=True)
    return text[: mark.start() if mark and mark.partial else None].rstrip("\ufffd").rstrip()


def user_messages(args: ChatArguments) -> Iterator[str]:
    """Iterate over the messages of `--message`, or the lines of the terminal or a pipe, until `/exit` or their end.

    A message of several lines has three quotation marks before and after it.

    Raises:
        ValueError: the input is not UTF-8.
    """
    if args.message is not None:
        yield from args.message
        return
    if interactive := sys.stdin.isatty():
        import readline  # noqa: F401  # arrow keys in `input`

        note(COMMANDS)
    while (line := read_line("> " * interactive)) is not None and line.strip() != "/exit":
        if line.lstrip().startswith(QUOTES):
            line = line.lstrip().removeprefix(QUOTES)
            while QUOTES not in line and (more := read_line("... " * interactive)) is not None:
                line += f"\n{more}"
            line = line.partition(QUOTES)[0]
        if line.strip():
            yield line.rstrip()


def read_line(prompt: str) -> str | None:
    """Read a line, or return None at the end of the input; Ctrl-C at the prompt of a terminal begins it anew.

    Raises:
        ValueError: the input is not UTF-8.
    """
    while True:
        try:
            return input(prompt)
        except EOFError:
            if prompt:
                print()
            return None
        except UnicodeDecodeError:
            raise ValueError("the messages on stdin are not UTF-8: convert them, e.g. by `iconv -t UTF-8`") from None
        except KeyboardInterrupt:
            if not prompt:
                raise
            print()
            note("/exit or Ctrl-D ends")


def note(text: str) -> None:
    """Write a remark about the conversation to stderr."""
    print(f"({escape_controls(text)})", file=sys.stderr, flush=True)
