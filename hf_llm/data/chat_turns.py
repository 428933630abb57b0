"""Conversations as token ids and labels: where the chat template writes the assistant's turns, proved for each row."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hf_llm.conversations import Conversation
from hf_llm.data.chat_answers import ChatFormat, check_token_border, completion_after, contents_of, excerpt
from hf_llm.data.chat_contents import check_answer_written, check_prompt_written
from hf_llm.data.chats import render_chats, render_marked
from hf_llm.data.tokenization import VERIFIED_PER_CALL, select_engine

Span = tuple[int, int]
Rows = list[dict[str, list[int]]]


@dataclass
class Turn:
    """An answer of the assistant as it is asked for and as it is written, when nothing comes after it.

    Args:
        chat: the messages up to and including the answer, with the tools.
        prompt: what the template makes of the messages before it, with the start of an answer.
        whole: what it makes of all of them.
        marks: start and end of what the template marks by `{% generation %}`, in characters of `whole`.
    """

    chat: Conversation
    prompt: str
    whole: str
    marks: list[Span]


def encode_conversations(
    format: ChatFormat, conversations: Sequence[Conversation], origins: list[str], train_on: str = "assistant"
) -> tuple[list[Rows], dict[int, str]]:
    """Token ids of conversations, with the ids that the assistant has to write as labels, end token included.

    The ids of a row are those of the template's own rendering. An answer is trained in the rendering of the whole
    conversation if it and all before it stand there as when it is asked for. Some templates change earlier turns when
    later ones come, e.g. remove their thoughts, or let an answer begin within a token; then the conversation becomes
    several rows, each of which ends with an answer that the longer ones do not have as it is asked for.

    Args:
        conversations: `{"messages": list[dict], "tools": list[dict] | None}`, each with an answer of the assistant.
        origins: where each conversation is from, for error messages.
        train_on: `assistant` for each of its turns, `last` for the last one, `all` for the whole text.

    Returns:
        The rows `{"input_ids": list[int], "labels": list[int]}` of each conversation; and for each conversation that
        cannot be proved, which has no rows, its index and the reason.

    Raises:
        ValueError: the template fails.

    Example:
        The turns [5, 6], [7, 1], [8, 6], [9, 1] have the labels -100, -100, 7, 1, -100, -100, 9, 1.
    """
    conversations = [format.conversation(chat) for chat in conversations]  # with the system prompt of the run
    turns, texts, problems = new_turns(format, conversations, origins, train_on), {}, {}
    for i in range(len(conversations)):
        try:
            texts[i] = whole_text(format, turns[i][-1]) if train_on == "all" else trained_texts(format, turns[i])
        except ValueError as error:
            problems[i] = str(error)
    rows, unproved = encode_texts(format, texts)
    if several := [i for i in unproved if len(turns[i]) > 1 and train_on != "all"]:  # a last answer may begin anywhere
        alone, still = encode_texts(
            format, {i: [trained_texts(format, [turn])[0] for turn in turns[i]] for i in several}
        )
        rows, unproved = rows | alone, {i: problem for i, problem in unproved.items() if i not in alone} | still
    return [rows.get(i, []) for i in range(len(conversations))], problems | unproved


def encode_texts(
    format: ChatFormat, texts: dict[int, list[tuple[str, list[Span]]]]
) -> tuple[dict[int, Rows], dict[int, str]]:
    """The rows of each conversation whose texts can all be proved; of the others, a reason why not."""
    encoded = iter(encode_spans(format, [text for row_texts in texts.values() for text in row_texts]))
    rows, problems = {}, {}
    for i, row_texts in texts.items():
        results = [next(encoded) for _ in row_texts]
        reasons = [result for result in results if isinstance(result, str)]
        if reasons:
            problems[i] = reasons[-1]
        else:
            rows[i] = results
    return rows, problems


def new_turns(
    format: ChatFormat, conversations: Sequence[Conversation], origins: list[str], train_on: str
) -> list[list[Turn]]:
    """Render each answer that is trained, with and without it."""
    chats = []
    for i, chat in enumerate(conversations):
        messages = chat["messages"]
        ends = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        ends = ends if train_on == "assistant" else ends[-1:]
        chats += [(i, chat | {"messages": messages[:k]}, chat | {"messages": messages[: k + 1]}) for k in ends]
    asked, answered = [chat for _, chat, _ in chats], [chat for _, _, chat in chats]
    chat_origins = [origins[i] for i, _, _ in chats]
    prompts = render_chats(format.tokenizer, asked, True, chat_origins, **format.variables)
    wholes = render_marked(format.tokenizer, answered, chat_origins, **format.variables)
    turns: list[list[Turn]] = [[] for _ in conversations]
    for (i, _, chat), prompt, (whole, marks) in zip(chats, prompts, wholes, strict=True):
        turns[i].append(Turn(chat, prompt, whole, marks))
    return turns


def trained_texts(format: ChatFormat, turns: list[Turn]) -> list[tuple[str, list[Span]]]:
    """The texts of a conversation's rows, with the spans of the trained answers, in characters.

    Raises:
        ValueError: the template writes an answer otherwise than after its prompt, or changes or omits a message.
    """
    check_turns(turns)
    texts, rest = [], turns
    while rest:
        last = rest[-1]
        text = last.whole + missing_end(format, last)
        spans = [(turn, answer_in(format, text, turn)) for turn in rest]
        spans[-1] = (last, (len(last.prompt), len(text)))
        trained = [marked_span(format, text, span, last.marks) for _, span in spans if span]
        texts.append((text, trained))
        rest = [turn for turn, span in spans if not span]
    return texts[::-1]


def whole_text(format: ChatFormat, turn: Turn) -> list[tuple[str, list[Span]]]:
    """The text of a conversation, all of which is trained."""
    check_turns([turn])
    text = turn.whole + missing_end(format, turn)
    return [(text, [(0, len(text))])]


def answer_end(format: ChatFormat, written: str) -> int | None:
    """Number of characters up to and including the end token of an answer; None if the template writes none.

    A call of a tool may end by another token than a text, e.g. `<|eom_id|>`.
    """
    if format.missing_end:
        return None
    if format.end in written:
        return written.rindex(format.end) + len(format.end)
    ends = [match.end() for match in format.pattern.finditer(written)]
    return ends[-1] if ends and not written[ends[-1] :].strip() else None


def missing_end(format: ChatFormat, turn: Turn) -> str:
    """The end token of an answer that ends a text, if the template leaves it to the next turn; else empty."""
    if answer_end(format, turn.whole[len(turn.prompt) :]) is not None:
        return ""
    return format.missing_end_of(turn.chat)


def answer_in(format: ChatFormat, text: str, turn: Turn) -> Span | None:
    """Where an answer stands in a longer text as it is asked for, with its end token; None if it does not.

    Text after the end token belongs to it as far as it is the same, e.g. a line end.
    """
    start = len(turn.prompt)
    size = answer_end(format, turn.whole[start:])
    stop = len(turn.whole) if size is None else start + size
    if not text.startswith(turn.whole[:stop]):
        return None
    if size is None:  # the first token of the next turn ends it
        end = format.pattern.match(text, stop)
        return (start, end.end()) if end else None
    if text.startswith(turn.whole):
        return start, len(turn.whole)
    while turn.whole[stop : stop + 1] == text[stop : stop + 1] and text[stop : stop + 1].isspace():
        stop += 1
    return start, stop


def marked_span(format: ChatFormat, text: str, span: Span, marks: list[Span]) -> Span:
    """The trained text of an answer: what the template marks of it by `{% generation %}`, or all without such marks.

    Raises:
        ValueError: it does not mark all that the model has to write.
    """
    if not format.marked:
        return span
    start, stop = span
    inside = [(max(start, first), min(stop, last)) for first, last in marks if first < stop and last > start]
    end = answer_end(format, text[start:stop])
    if end is None:  # it is the next turn's first token, or the template writes none
        needed = [match.start() for match in format.pattern.finditer(text, start, stop)][-1]
    else:
        stop, needed = min(stop, max([start + end, *(last for _, last in inside)])), start + end
    position = start
    for first, last in [*inside, (needed, needed)]:
        if gap := text[position : min(first, needed)].strip():
            raise ValueError(
                f"the chat template does not mark `{excerpt(gap)}` by `{{% generation %}}`, and the model has to write "
                "it: correct or remove the marks"
            )
        position = max(position, last)
    return inside[0][0], stop


def check_turns(turns: list[Turn]) -> None:
    """Refuse answers that the template writes otherwise than after their prompt, and messages that it changes or omits.

    Raises:
        ValueError: it does.
    """
    for turn in turns:
        written = completion_after(turn.prompt, turn.whole, *contents_of(turn.chat))
        check_answer_written(turn.chat["messages"][-1], written)
    check_prompt_written(turns[-1].chat, turns[-1].prompt)


def encode_spans(format: ChatFormat, texts: list[tuple[str, list[Span]]]) -> list[dict[str, list[int]] | str]:
    """Token ids and labels of texts with trained spans, or the reason why a span of a text cannot be proved.

    Each border of a span must be one between two tokens, also for a text that ends there, but for the start of the last
    span: see `place_spans`. The tokens of each span must decode to its text.
    """
    all_ids = token_ids(format, [text for text, _ in texts])
    cuts = [cuts_of(format, text, spans, ids) for (text, spans), ids in zip(texts, all_ids, strict=True)]
    contexts = [*{text[start:border] for (text, _), row in zip(texts, cuts, strict=True) for start, _, border in row}]
    # By the tokenizer itself, as in inference; almost all conversations have the same few contexts.
    own_ids = format.tokenizer(contexts, add_special_tokens=False).input_ids if contexts else []
    context_ids = dict(zip(contexts, own_ids, strict=True))
    rows: list[dict[str, list[int]] | str] = []
    for (text, spans), ids, row_cuts in zip(texts, all_ids, cuts, strict=True):
        try:
            ids, borders = place_spans(format, text, ids, row_cuts, context_ids)
            check_decoded(format, text, spans, ids, borders)
        except ValueError as error:
            rows.append(str(error))
            continue
        labels = [-100] * len(ids)
        for first, last in zip(borders[::2], borders[1::2], strict=True):
            labels[first:last] = ids[first:last]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def token_ids(format: ChatFormat, texts: list[str]) -> list[list[int]]:
    """Token ids of texts in which the template has written all special tokens, by the faster engine if it can."""
    if not texts:
        return []
    if format.engine is None:
        options = {"add_special_tokens": False, "split_special_tokens": False, "verify_each_call": True}
        format.engine = select_engine(format.tokenizer, texts[:VERIFIED_PER_CALL], **options)[1]
    ids, offsets = format.engine(texts)
    return [ids[start:stop].tolist() for start, stop in pairwise(offsets)]


def cuts_of(format: ChatFormat, text: str, spans: list[Span], ids: list[int]) -> list[tuple[int, int, int]]:
    """For each border of the spans: character and token index of the last special token before it, and the border.

    Special and added tokens split a text before anything else does: what comes after one is tokenized as by itself.
    Both are 0 where there is none, or where the tokens are not those in the text, e.g. tokens of normalized text.
    """
    found = [(match.start(), match.end(), format.added[match.group()]) for match in format.pattern.finditer(text)]
    indices = [i for i, number in enumerate(ids) if number in format.added_ids]
    if [ids[i] for i in indices] != [number for _, _, number in found]:
        found, indices = [], []
    ends = [end for _, end, _ in found]
    cuts = []
    for border in (border for span in spans for border in span):
        number = bisect.bisect_right(ends, border) - 1
        cuts.append((found[number][0], indices[number], border) if number >= 0 else (0, 0, border))
    return cuts


def place_spans(
    format: ChatFormat, text: str, ids: list[int], cuts: list[tuple[int, int, int]], context_ids: dict[str, list[int]]
) -> tuple[list[int], list[int]]:
    """Find the token after each border of a text's spans.

    The last answer is encoded apart from its prompt where they share a token, as `ChatFormat.ids_after` does; of the
    answers before it none can be, because all that is before an answer is encoded together when it is asked for.

    Returns:
        The token ids of the text, and the index of the first token after each border.

    Raises:
        ValueError: a border is within a token.
    """
    *earlier, (start, index, border), end = cuts
    *borders, stop = [token_border(text, ids, cut, context_ids) for cut in (*earlier, end)]
    before = context_ids[text[start:border]]
    answer = format.ids_after(text[start:border], text[border:], before, ids[index:])
    new = ids[:index] + before + answer
    return new, [*borders, index + len(before), stop + len(new) - len(ids)]


def token_border(text: str, ids: list[int], cut: tuple[int, int, int], context_ids: dict[str, list[int]]) -> int:
    """Index of the first token after a border.

    Args:
        cut: a character and the index of its token, from which on the text is tokenized as by itself, and the border.

    Raises:
        ValueError: the border is within a token, or the text before it has other tokens on its own.
    """
    start, index, border = cut
    before = context_ids[text[start:border]]
    check_token_border(text[start:border], text[border:], before, ids[index : index + len(before)])
    return index + len(before)


def check_decoded(format: ChatFormat, text: str, spans: list[Span], ids: list[int], borders: list[int]) -> None:
    """Check that the tokens of each span decode to its text, apart from white space and unknown characters.

    Raises:
        ValueError: they do not.
    """
    for (start, stop), first, last in zip(spans, borders[::2], borders[1::2], strict=True):
        decoded = format.decode(ids[first:last])
        if decoded.strip() != text[start:stop].strip() and not format.is_same(decoded, text[start:stop]):
            raise ValueError(
                f"the tokens of the answer decode to `{excerpt(decoded)}`, and the chat template writes "
                f"`{excerpt(text[start:stop])}`"
            )
