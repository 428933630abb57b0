"""Token folders hold the rows that tokenizing anew would give, and are refused where a run asks for others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import TEXTS, new_tokenizer, packed

from hf_llm.arguments import ModelArguments, PretrainArguments, TextArguments, TokenizationArguments
from hf_llm.command_line import parse_args
from hf_llm.data.arrow import hash_rows
from hf_llm.data.masking import MaskingCollator, mask_rows
from hf_llm.data.mixed_rows import join_rows
from hf_llm.data.sources import load_splits
from hf_llm.data.text_size import text_figures
from hf_llm.data.token_folders import TOKENS_FILE, save_token_folder, settings_checksum, smallest_integer
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.evaluation.perplexity import LanguageModelingMetrics
from hf_llm.models.loading import load_tokenizer
from hf_llm.training.objectives import check_objective

TOKENIZER = new_tokenizer()


def save(folder, texts=TEXTS, tokenizer=TOKENIZER, **settings):
    """Write a token folder, whose first seven texts are for validation as well."""
    splits = {"train": packed(texts, tokenizer)[0], "validation": packed(texts[:7], tokenizer)[0]}
    args = TokenizationArguments(**{"tokenizer_name": "mine", "max_length": 64} | settings)
    save_token_folder(folder, splits, tokenizer, args)
    return str(folder)


def load(*folders, **settings):
    return load_splits(TextArguments(train_file=[*folders], **{"max_length": 64} | settings), seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("tokens") / "tokens")


def test_rows_counts_and_facts_are_those_of_tokenizing_anew(folder):
    """The same ids and pieces in the same order, the same report, hash and sizes of the text."""
    splits = load(folder)
    for split, texts in (("train", TEXTS), ("validation", TEXTS[:7])):
        documents, rows, report = packed(texts, TOKENIZER)
        assert [row["input_ids"].tolist() for row in splits[split]] == [row["input_ids"].tolist() for row in rows]
        assert [row["lengths"].tolist() for row in splits[split]] == [row["lengths"].tolist() for row in rows]
        assert splits[split].report == report
        assert splits[split].facts == {"rows": len(rows), "data": hash_rows(rows)}
    assert splits["validation"].text == text_figures(documents, rows)
    anew, saved = (LanguageModelingMetrics(documents, rows, TOKENIZER) for rows in (rows, splits["validation"]))
    assert vars(anew).keys() == vars(saved).keys() and anew.scores(9.0, 7) == saved.scores(9.0, 7)


def test_rows_to_evaluate_on_are_those_of_the_text_and_leave_the_folder_as_it_is(folder):
    """Joined to those of other sources, or with hidden tokens; it may be read-only."""
    files = sorted(Path(folder).rglob("*"))
    ids = {"pad_token_id": 0, "position_ids": True, "mask_token_id": 1, "ordinary_ids": np.arange(5, 300)}
    collator = MaskingCollator(**ids, probability=0.15, seed=0)
    _, anew, _ = packed(TEXTS[:7], TOKENIZER)
    saved = load(folder)["validation"]
    assert hash_rows(mask_rows(saved, collator)) == hash_rows(mask_rows(anew, collator))
    assert (
        hash_rows(join_rows([anew, saved])) == hash_rows(join_rows([saved, anew])) == hash_rows(join_rows([anew] * 2))
    )
    assert sorted(Path(folder).rglob("*")) == files


def test_ids_take_the_smallest_integer_that_holds_the_vocabulary(folder):
    """Two bytes for up to 65,536 entries, four for more."""
    assert load(folder)["train"].data.schema.field("input_ids").type == pa.list_(pa.uint16())
    assert smallest_integer(65_536) == pa.uint16() and smallest_integer(65_537) == pa.uint32()
    assert np.iinfo(np.uint16).max == 65_535


def test_many_shards_hold_the_same_rows_as_one(tmp_path, monkeypatch):
    """Batches of rows are written to a new shard when one has its size; none is lost between them."""
    monkeypatch.setattr("hf_llm.data.token_folders.BATCH_ROWS", 10)
    texts = TEXTS * 8
    whole, shards = (save(tmp_path / name, texts, shard_bytes=size) for name, size in (("a", 1 << 30), ("b", 3000)))
    assert len(list((tmp_path / "b").glob("train-*.arrow"))) > 2 > len(list((tmp_path / "a").glob("train-*.arrow"))) - 1
    one, many = load(whole)["train"], load(shards)["train"]
    assert len(one) > 50 and one.facts == many.facts and hash_rows(one) == hash_rows(many)
    assert [*map(len, one[::7]["input_ids"])] == [*map(len, many[::7]["input_ids"])]


def test_folders_of_several_jobs_are_one_data_set(folder, tmp_path):
    """Rows one after the other, counts added up."""
    other = save(tmp_path / "other", TEXTS[:9])
    first, second, both = load(folder)["train"], load(other)["train"], load(folder, other)["train"]
    assert hash_rows(both.select(range(len(first)))) == hash_rows(first)
    assert len(both) == len(first) + len(second)
    assert both.report.tokens_packed == first.report.tokens_packed + second.report.tokens_packed
    tokens = both.report.tokens_packed
    assert both.report.packing_efficiency == pytest.approx(tokens / (len(both) * 64))
    assert load(folder, other)["validation"].text["documents"] == 14


def test_a_moved_folder_names_no_path_of_the_machine_that_made_it(folder, tmp_path):
    """It is copied and used elsewhere, with its own tokenizer."""
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    everything = b"".join(path.read_bytes() for path in copy.rglob("*") if path.is_file())
    assert folder.encode() not in everything
    rows = load(str(copy))["train"]
    tokenizer = load_tokenizer(ModelArguments(), rows)
    assert tokenizer("it counts 1 2 3").input_ids == TOKENIZER("it counts 1 2 3").input_ids


def test_validation_may_be_text_or_another_folder(folder, tmp_path):
    """Named by `--validation_file`, it replaces the folder's own split."""
    (tmp_path / "held.jsonl").write_text(json.dumps({"text": "it ends"}) + "\n")
    assert load(folder, validation_file=[str(tmp_path / "held.jsonl")])["validation"]["text"][:] == ["it ends"]
    other = save(tmp_path / "other", TEXTS[9:])
    assert load(folder, validation_file=[other])["validation"].facts == load(other)["validation"].facts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_length": 128}, "`--max_length` is 128, and .*: give `--max_length 64`, or make"),
        ({"packing": False}, "`--packing` is false, and .*: give `--packing true`"),
        ({"streaming": True}, "`--streaming` has no effect on a folder of tokens"),
        ({"max_train_samples": 3}, "`--max_train_samples` counts documents, .* or limit the training by `--max_steps`"),
    ],
)
def test_other_settings_than_those_of_the_folder_are_refused(folder, settings, said):
    """With the value that fits."""
    with pytest.raises(ValueError, match=said):
        load(folder, **settings)


def test_text_beside_a_folder_of_tokens_is_refused(folder, tmp_path):
    """One argument names either files or token folders."""
    (tmp_path / "more.txt").write_text("text")
    with pytest.raises(ValueError, match=r"`--train_file` names a folder of tokens and `.*more.txt`"):
        load(folder, str(tmp_path / "more.txt"))


def test_another_tokenizer_is_refused_and_an_extended_one_is_not(folder, tmp_path):
    """What counts is how text becomes ids; a special token more changes none of them."""
    rows = load(folder)["train"]
    train_tokenizer(TEXTS, vocab_size=290).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"was made by another tokenizer .of 300 entries. than .*of 290"):
        load_tokenizer(ModelArguments(tokenizer_name=str(tmp_path / "other")), rows)
    extended = new_tokenizer()
    extended.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    extended.save_pretrained(tmp_path / "extended")
    assert len(load_tokenizer(ModelArguments(tokenizer_name=str(tmp_path / "extended")), rows)) == 301


def test_folders_of_different_tokenizers_are_refused(folder, tmp_path):
    """Ids of both would mean different texts."""
    other = save(tmp_path / "other", tokenizer=train_tokenizer(TEXTS, vocab_size=290))
    with pytest.raises(ValueError, match="were made by different tokenizers: name one"):
        load(folder, other)


def test_a_folder_has_one_source(capsys):
    """A mixture names folders of its sources; it is not ignored where one is made."""
    command = ["--mixture", "mix.yaml", "--tokenizer_name", "mine"]
    with pytest.raises(SystemExit):
        parse_args([TokenizationArguments], command, description="")
    assert "unknown argument `--mixture`: it is an argument of recipes/pretrain.py" in capsys.readouterr().err


def test_filling_in_the_middle_is_refused_on_tokens(folder):
    """It rearranges the characters of documents."""
    data_args, run_args = TextArguments(train_file=[folder]), PretrainArguments(objective="fim")
    args = type("Args", (), {"metric_for_best_model": None})()
    with pytest.raises(ValueError, match="`--objective` fim rearranges text, but `--train_file` is a folder of tokens"):
        check_objective(ModelArguments(), data_args, run_args, args, TOKENIZER)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_shard_is_refused(folder, tmp_path, damage):
    """By its size, or by a checksum of its two ends."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    shard = copy / "train-00000.arrow"
    content = shard.read_bytes()
    changed = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    shard.write_bytes({"cut": content[:-1], "changed": changed, "missing": b""}[damage])
    if damage == "missing":
        shard.unlink()
    with pytest.raises(ValueError, match=r"train-00000.arrow` (has .* of its|is damaged).*: copy the folder again"):
        load(str(copy))


def test_too_little_text_for_one_row_leaves_no_folder(tmp_path):
    """The folder appears when it is complete."""
    with pytest.raises(ValueError, match=r"`train` has .* tokens, fewer than one row of `--max_length` 4096"):
        save(tmp_path / "tokens", max_length=4096)
    assert not any(tmp_path.iterdir())


def test_the_version_of_the_layout_is_checked(folder, tmp_path):
    """A folder of a later version is not read as if it were of this one."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    settings = json.loads((copy / TOKENS_FILE).read_text()) | {"version": 2}
    del settings["checksum"]
    (copy / TOKENS_FILE).write_text(json.dumps(settings | {"checksum": settings_checksum(settings)}))
    with pytest.raises(ValueError, match="has version 2 of the layout, not 1"):
        load(str(copy))


@pytest.mark.parametrize("name", [TOKENS_FILE, "tokenizer/tokenizer.json"])
def test_a_folder_that_was_edited_is_refused(folder, tmp_path, name):
    """Another `max_length` in `tokens.json` would not make longer rows, nor another tokenizer beside them other ids."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / name).read_text())
    for edited in (content | {"max_length": 7}, {}):
        (copy / name).write_text(json.dumps(edited))
        with pytest.raises(ValueError, match=f"{name} is not as it was written: copy the folder again, or make"):
            load(str(copy))
