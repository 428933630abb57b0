"""A new vocabulary encodes any text; an extended one keeps its ids and needs fewer tokens than before."""

import pytest
from datasets import Dataset
from test_tokenization import CORPUS, TRICKY, gpt2_like
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_llm.arguments import TokenizerArguments
from hf_llm.data.vocabulary import (
    MASK,
    add_special_tokens,
    extend_vocabulary,
    measure_fertility,
    train_or_extend,
    train_tokenizer,
)

ENGLISH = [text for text in CORPUS if text.isascii()]
CLASSIC = [
    *("天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。", "寒来暑往，秋收冬藏。闰余成岁，律吕调阳。"),
    *("云腾致雨，露结为霜。金生丽水，玉出昆冈。", "剑号巨阙，珠称夜光。果珍李柰，菜重芥姜。"),
    *("天地之间，日月之光，秋收冬藏，云腾致雨。", "宇宙洪荒，天地玄黄，寒来暑往，玉出昆冈。"),
]  # fmt: skip
CHINESE = CLASSIC * 5


def sentencepiece_like(byte_fallback: bool):
    """A BPE of characters like that of Llama 2: visible spaces, no words, bytes or one token for unknown characters."""
    known = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special + known, show_progress=False)
    backend.train_from_iterator(ENGLISH, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


OLD = {
    "bytes": gpt2_like,
    "ours": lambda: train_tokenizer(ENGLISH, 400),
    "characters and bytes": lambda: sentencepiece_like(True),
    "characters": lambda: sentencepiece_like(False),
}


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def new(request):
    return train_tokenizer(CORPUS, 400, request.param, ["<|mask|>"])


@pytest.fixture(scope="module", params=OLD)
def extended(request):
    """A tokenizer before and after it was extended for Chinese, and the ids that the new ones replace."""
    before = OLD[request.param]()
    return before, *extend_vocabulary(before, CHINESE, 120)


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


@pytest.mark.parametrize("text", TRICKY)
def test_a_new_tokenizer_decodes_any_text_exactly(new, text):
    """Also text that it was not trained on."""
    for written in (text, text[::-1] + "Ω∑ unseen 龘"):
        assert new.decode(ids_of(new, written), clean_up_tokenization_spaces=False) == written


def test_a_new_tokenizer_begins_documents_and_has_different_special_tokens(new):
    """Padding is not the end of text, `<|bos|>` precedes the first word, and no text is encoded as special tokens."""
    assert new("word").input_ids[0] == new.bos_token_id
    special = {new.bos_token_id, new.eos_token_id, new.pad_token_id, new.convert_tokens_to_ids("<|mask|>")}
    assert len(special) == 4 and len(new) <= 400
    assert not special & set(ids_of(new, "<|bos|><|eos|><|pad|><|mask|>"))


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    """259 entries are the minimum: 256 bytes and 3 special tokens."""
    with pytest.raises(ValueError, match="`--vocab_size` 258 is below 259"):
        train_tokenizer(CORPUS, 258)
    assert len(train_tokenizer(CORPUS, 259)) == 259


def test_an_extended_vocabulary_needs_at_most_half_the_tokens(extended):
    """For its language, on text that it was not trained on, with exactly the new tokens that were requested."""
    before, after, _ = extended
    unseen = ["秋收冬藏，天地玄黄。玉出昆冈，云腾致雨。"]
    if before.unk_token_id is None or before.convert_tokens_to_ids("<0xE5>") != before.unk_token_id:
        old, new = (measure_fertility(tokenizer, unseen)["tokens_per_character"] for tokenizer in (before, after))
        assert new <= old / 2
    else:  # all of it is one unknown token
        assert measure_fertility(before, unseen)["unknown_characters"] == 20
    assert measure_fertility(after, unseen)["unknown_characters"] == 0
    assert len(after) == len(before) + 120
    assert set(after.get_vocab().values()) == set(range(len(after)))


def test_an_extended_vocabulary_decodes_what_it_encoded(extended):
    """Chinese, English and both together; each new token decodes to the same text as the old ones that it replaces."""
    before, after, pieces = extended
    for text in [*CLASSIC, *ENGLISH[:5], "the 天地 fox"]:
        if not measure_fertility(after, [text])["unknown_characters"]:
            assert after.decode(ids_of(after, text)) == text
    assert sorted(pieces) == list(range(len(before), len(after)))
    for id, old in pieces.items():
        assert max(old) < len(before)
        if before.unk_token_id not in old or before.unk_token is None:
            assert after.decode([id]).strip() == before.decode(old).strip()


def test_text_without_new_tokens_keeps_its_ids(extended):
    """English is encoded as before."""
    before, after, _ = extended
    for text in ENGLISH:
        assert ids_of(after, text) == ids_of(before, text)


def test_an_extended_vocabulary_is_the_same_after_loading(extended, tmp_path):
    """With AutoTokenizer, from the folder."""
    _, after, _ = extended
    after.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(after)
    for text in [*CLASSIC, *TRICKY]:
        assert ids_of(loaded, text) == ids_of(after, text)


def test_texts_may_be_a_column_of_a_data_set(extended):
    """Which is read from the disk in batches."""
    before, after, pieces = extended
    column = Dataset.from_dict({"text": CHINESE})["text"]
    again, same = extend_vocabulary(before, column, 120)
    assert same == pieces and again.get_vocab() == after.get_vocab()


def test_a_vocabulary_that_is_not_a_bpe_cannot_be_extended():
    """The message names the remedy."""
    with pytest.raises(ValueError, match=r"`--new_tokens`: .* is a Unigram model, and only a BPE can be extended"):
        extend_vocabulary(train_tokenizer(CORPUS, 400, "unigram"), CHINESE, 10)


def test_rare_characters_do_not_use_up_the_new_tokens():
    """They stay bytes and are decoded; words of frequent ones become tokens; no token extends over a full stop."""
    before = sentencepiece_like(True)
    words = ["天地玄黄", "宇宙洪荒", "日月盈昃", "辰宿列张"]
    rare = "".join(chr(0x8000 + i) for i in range(60)) * 2
    texts = [f"{a}{b}。{b}{a}。" for a in words for b in words] * 1000 + [rare]
    after, pieces = extend_vocabulary(before, texts, 30)
    new = [after.convert_ids_to_tokens(id) for id in pieces]
    assert {token for token in new if len(token) == 1} == set("".join(words)) | {"。"}
    assert set(words) <= set(new) and not any("。" in token[:-1] or "。" in token[1:] for token in new)
    assert after.decode(ids_of(after, rare)) == rare


def test_nothing_to_add_is_an_error():
    """The tokens exist already, or no pair occurs twice in the text."""
    for settings in ({"special_tokens": ["<|endoftext|>"]}, {"new_tokens": 5}):
        args = TokenizerArguments(tokenizer_name="gpt2", **settings)
        with pytest.raises(ValueError, match="nothing is to be added to"):
            train_or_extend(args, gpt2_like(), ["x"])


def test_special_tokens_are_added_once_with_the_ids_that_they_replace():
    """Text is not encoded as them; the original tokenizer is not changed."""
    before = gpt2_like()
    after, spelled = add_special_tokens(before, ["<|fim_prefix|>", "<|endoftext|>"])
    assert list(spelled) == [len(before)] and len(after) == len(before) + 1
    assert before.decode(spelled[len(before)]) == "<|fim_prefix|>"
    assert ids_of(after, "a <|fim_prefix|>") == ids_of(before, "a <|fim_prefix|>")
    assert add_special_tokens(after, ["<|fim_prefix|>"])[1] == {}


def test_a_mask_token_that_is_added_is_the_tokenizers_mask_token(tmp_path):
    """As the remedy for `--objective masked` says, also after saving and loading."""
    after, _ = add_special_tokens(gpt2_like(), ["<|mask|>"])
    after.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).mask_token_id == after.convert_tokens_to_ids("<|mask|>")


def test_fertility_counts_characters_and_words():
    """Each Chinese character is a word; spaces are characters too."""
    tokenizer = train_tokenizer(["x"], 259)  # each byte a token
    assert measure_fertility(tokenizer, ["ab cd"]) == {
        "tokens_per_character": 1.0, "tokens_per_word": 2.5, "unknown_characters": 0
    }  # fmt: skip
    assert measure_fertility(tokenizer, ["天地", "玄"])["tokens_per_word"] == 3


def test_a_new_tokenizer_knows_its_mask():
    """As `mask_token`, which pipelines read."""
    tokenizer = train_tokenizer(["a few words"], 300, special_tokens=[MASK])
    assert tokenizer.mask_token == MASK and tokenizer.mask_token_id < 300
    assert train_tokenizer(["a few words"], 300).mask_token is None
