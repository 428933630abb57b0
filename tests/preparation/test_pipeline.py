"""A prepared folder is complete, the same for the same input, and accounts for every row."""

import csv
import functools
import gzip
import hashlib
import http.server
import json
import logging
import os
import random
import re
import runpy
import signal
import sys
import threading
import time

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import ROOT

from hf_llm.arguments import PreparationArguments, TextArguments
from hf_llm.data.sources import load_splits
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.preparation.pipeline import prepare

PAGE = """<html><head><title>t</title></head><body><nav><a href="/">Home</a> <a href="/about">About</a></nav>
<article><h1>The harbour</h1><p>The old harbour of the town was built by merchants who came from the north.</p>
<p>They brought wool, tar and salt with them, and what they could not sell they kept in houses of brick.</p></article>
<footer>Imprint</footer></body></html>"""
DOCUMENTS = [
    " ".join(f"{word}{number}" for word in ("the", "river", "of", "an", "old", "town", "and", "its", "many", "bridges"))
    for number in range(40)
]


NO_STEPS = {"clean": False, "anonymize": "none"}  # no steps for single texts, so no worker processes are started


SKIP = {"on_error": "skip", "max_unreadable": 1.0}


def arguments(tmp_path, *files, **settings):
    paths = {"files": [str(tmp_path / name) for name in files], "output_dir": str(tmp_path / "out")}
    return PreparationArguments(**(paths | settings))


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def texts_of(folder):
    return [text for path in sorted(folder.glob("*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]


def dropped_rows(folder):
    with gzip.open(folder / "dropped.tsv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def card_of(folder):
    return (folder / "README.md").read_text()


def unreadable(manifest):
    """For each source of which something is lost, its unreadable rows, or "file"."""
    lost = {source["name"]: source for source in manifest["sources"] if "lost_bytes" in source}
    return {name: "file" if "problem" in source else source["unreadable_rows"] for name, source in lost.items()}


def error_of(args):
    with pytest.raises(ValueError) as info:
        prepare(args)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The manifest, and a folder of files in all formats: duplicates, personal data, a question of an evaluation."""
    folder = tmp_path_factory.mktemp("prepare_data") / "raw"
    folder.mkdir()
    write_lines(folder / "a.jsonl", [*DOCUMENTS[:20], "Write to jo@example.org, or call 212-555-0147!"])
    with gzip.open(folder / "b.txt.gz", "wt") as file:
        file.write("A text\r\nof its ownâ€™s\x07.")
    (folder / "c.csv").write_text(f'text,n\n"{DOCUMENTS[3]}",1\n"{DOCUMENTS[21]}",2\n')
    pq.write_table(pa.table({"text": [DOCUMENTS[22], DOCUMENTS[5].upper().replace(" ", "  ")]}), folder / "d.parquet")
    (folder / "e.html").write_text(PAGE)
    question = "Who built the first stone bridge across the wide and cold northern river in that year?"
    write_lines(folder / "f.jsonl", [f"It was asked: {question.upper()} Nobody knew."])
    (folder.parent / "questions.jsonl").write_text(json.dumps({"id": 1, "qa": [{"question": question}]}) + "\n")
    return folder, prepare(
        PreparationArguments(
            files=[str(folder)],
            output_dir=str(folder.parent / "prepared"),
            decontaminate=[str(folder.parent / "questions.jsonl")],
            shard_bytes=1000,
        )
    )


def test_every_row_is_accounted_for(prepared):
    """Rows in, dropped rows by reason and rows out add up from step to step; the shards have the rows that are left."""
    folder, manifest = prepared
    steps = manifest["steps"]
    assert steps[0]["rows_in"] == 28 and steps[-1]["rows_out"] == manifest["rows"] == 25
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        assert step["rows_in"] - sum(step["dropped"].values()) == step["rows_out"]
        assert following is None or (following["rows_in"], following["bytes_in"]) == (
            step["rows_out"],
            step["bytes_out"],
        )
    dropped = {step["step"]: sum(step["dropped"].values()) for step in steps if step["dropped"]}
    assert dropped == {"decontamination": 1, "exact duplicates": 1, "near duplicates": 1}
    texts = texts_of(folder.parent / "prepared")
    assert len(texts) == 25 and sum(len(text.encode()) for text in texts) == manifest["bytes"] == steps[-1]["bytes_out"]


def test_texts_come_in_the_order_of_the_sources(prepared):
    """Texts are cleaned and anonymized, pages have their main text only, and each row names its source and row."""
    folder, manifest = prepared
    texts = texts_of(folder.parent / "prepared")
    assert texts[:20] == DOCUMENTS[:20]
    assert texts[20:24] == ["Write to <EMAIL>, or call <PHONE>!", "A text\nof its own’s.", *DOCUMENTS[21:23]]
    assert "merchants" in texts[24] and "Imprint" not in texts[24]
    assert manifest["replaced"] == {"EMAIL": 1, "PHONE": 1}
    rows = pa.concat_tables(pq.read_table(path) for path in sorted((folder.parent / "prepared").glob("*.parquet")))
    assert rows["source"].to_pylist()[20:] == [
        f"raw/{name}" for name in ("a.jsonl", "b.txt.gz", "c.csv", "d.parquet", "e.html")
    ]
    assert rows["row"].to_pylist()[20:] == [20, 0, 1, 0, 0]


def test_the_manifest_has_the_hashes_of_shards_and_sources(prepared):
    """Neither it nor the report nor the card names a folder of this machine."""
    folder, manifest = prepared
    output = folder.parent / "prepared"
    assert json.loads((output / "manifest.json").read_text()) == manifest and len(manifest["shards"]) > 1
    for shard in manifest["shards"]:
        assert hashlib.sha256((output / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    assert [source["name"] for source in manifest["sources"]] == [f"raw/{name}" for name in sorted(os.listdir(folder))]
    for source in manifest["sources"]:
        assert hashlib.sha256((folder.parent / source["name"]).read_bytes()).hexdigest() == source["sha256"]
    for name in ("manifest.json", "report.md", "README.md"):
        assert str(folder.parent) not in (output / name).read_text()


def test_the_report_shows_the_funnel_and_dropped_rows(prepared):
    """It has a plot, a table, and examples of dropped rows with their file and row."""
    output = prepared[0].parent / "prepared"
    report = (output / "report.md").read_text()
    assert (output / "funnel.png").stat().st_size > 5000 and "(funnel.png)" in report
    assert "| exact duplicates | 27 | 26 |" in report and "c.csv` row 0, duplicate of `raw/a.jsonl` row 3" in report
    assert "13 consecutive words of an evaluation (1)" in report


def test_the_same_input_gives_the_same_bytes(prepared, tmp_path):
    """In every file of the folder."""
    folder, manifest = prepared
    settings = {"decontaminate": [str(folder.parent / "questions.jsonl")], "shard_bytes": 1000}
    again = prepare(PreparationArguments(files=[str(folder)], output_dir=str(tmp_path / "again"), **settings))
    assert again == manifest
    before = {path.name: path.read_bytes() for path in (folder.parent / "prepared").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == before


def test_the_folder_can_be_trained_on(prepared, tmp_path, monkeypatch):
    """`--train_file` takes the folder; its manifest, report and card are not read as text."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    folder = prepared[0].parent / "prepared"
    splits = load_splits(TextArguments(train_file=[str(folder)]), 0)
    assert sorted([*splits["train"]["text"], *splits["validation"]["text"]]) == sorted(texts_of(folder))


def test_the_card_tells_the_hub_how_to_load_the_folder(prepared, tmp_path):
    """`load_dataset` finds the shards by its metadata."""
    folder = prepared[0].parent / "prepared"
    rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))["train"]
    assert rows["text"][:] == texts_of(folder) and rows.column_names == ["text", "source", "row"]


def test_tokens_are_counted_by_the_tokenizer(tmp_path):
    """With the special tokens that it adds to each text."""
    write_lines(tmp_path / "a.jsonl", DOCUMENTS)
    tokenizer = train_tokenizer(DOCUMENTS, 300)
    manifest = prepare(arguments(tmp_path, "a.jsonl"), tokenizer)
    assert manifest["tokens"] == sum(len(ids) for ids in tokenizer(DOCUMENTS).input_ids)


def test_rows_that_cannot_be_read_stop_the_run_or_are_counted(tmp_path):
    """The message names file and row, a stopped run leaves no files, and `--on_error skip` lists the rows."""
    good = json.dumps({"text": DOCUMENTS[0]})
    (tmp_path / "lines.jsonl").write_bytes(
        b"\n".join([good.encode(), b'{"text": ', b'{"text": 3}', b'{"other": "x"}', b'{"text": "\xff"}'])
    )
    (tmp_path / "binary.txt").write_bytes(b"GIF89a\x00\x01")
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(good.encode() * 50)[:60])
    (tmp_path / "fake.parquet").write_text("no")
    message = error_of(arguments(tmp_path, "lines.jsonl", **NO_STEPS))
    assert f"`{tmp_path / 'lines.jsonl'}` line 2: " in message and "--on_error skip" in message
    assert not list(tmp_path.glob("*out*"))
    names = ["binary.txt", "cut.jsonl.gz", "fake.parquet", "latin.txt", "lines.jsonl"]
    for name in names[:-1]:
        assert f"`{tmp_path / name}`" in error_of(arguments(tmp_path, name, **NO_STEPS))
    manifest = prepare(arguments(tmp_path, *names, **SKIP))
    assert manifest["steps"][0] | {"bytes_in": 0, "bytes_out": 0} == {
        "step": "read",
        "rows_in": 5,
        "rows_out": 1,
        "bytes_in": 0,
        "bytes_out": 0,
        "changed": 0,
        "dropped": {"cannot be read": 4},
    }
    assert unreadable(manifest) == dict.fromkeys(names[:-1], "file") | {"lines.jsonl": 4}
    assert manifest["input"]["unreadable_files"] == 4 and manifest["input"]["unreadable_rows"] == 4
    report, dropped = (tmp_path / "out" / "report.md").read_text(), dropped_rows(tmp_path / "out")
    assert [row["source"] for row in dropped] == [*names[:-1], *["lines.jsonl"] * 4]
    assert all(row["step"] == "read" and row["reason"] in report for row in dropped)
    assert "`cut.jsonl.gz` cannot be read" in dropped[1][
        "reason"
    ] and "(60 bytes; the file, or the rest of it, 60 bytes, could not be read)" in card_of(tmp_path / "out")


def test_a_text_that_takes_too_long_is_unreadable(tmp_path):
    """It stops the run with one line, or is counted with its reason."""
    write_lines(tmp_path / "a.jsonl", [DOCUMENTS[0], "Write to jo@example.org! " * 100_000])
    settings = {"max_text_seconds": 0.05, "max_unreadable": 1}
    why = "row 1 cannot be prepared: 2,500,000 characters take more than 0.125 CPU seconds in the step `"
    assert f"`{tmp_path / 'a.jsonl'}` {why}" in error_of(arguments(tmp_path, "a.jsonl", **settings))
    manifest = prepare(arguments(tmp_path, "a.jsonl", on_error="skip", **settings))
    assert texts_of(tmp_path / "out") == DOCUMENTS[:1] and unreadable(manifest) == {"a.jsonl": 1}
    (row,) = dropped_rows(tmp_path / "out")
    assert (row["source"], row["row"], row["step"]) == ("a.jsonl", "1", "read")
    assert row["reason"].startswith(f"`a.jsonl` {why}")


@pytest.fixture
def server(tmp_path):
    """The host and port of a web server of `tmp_path`."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


def test_files_at_urls_are_read_like_local_files(tmp_path, server):
    """Compressed and Parquet files too, after the local ones; a password in the URL is not in any output file."""
    write_lines(tmp_path / "local.jsonl", DOCUMENTS[:1])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": DOCUMENTS[1]}).encode()))
    pq.write_table(pa.table({"text": [DOCUMENTS[2]]}), tmp_path / "b.parquet")
    args = arguments(tmp_path, "local.jsonl", **NO_STEPS)
    args.files = [f"http://{server}/b.parquet", f"http://jo:secret-word@{server}/a.jsonl.gz", *args.files]
    manifest = prepare(args)
    assert texts_of(tmp_path / "out") == [DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1]]
    assert {source["name"] for source in manifest["sources"]} >= {f"http://{server}/a.jsonl.gz", "local.jsonl"}
    assert not any(b"secret-word" in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_urls_without_files_are_reported(tmp_path, server):
    """For a missing file, an unreachable host and an empty folder, the message names the URL."""
    for url in (f"http://{server}/none.jsonl", "http://127.0.0.1:9/a.jsonl", "memory://nothing/*.jsonl"):
        assert f"`--files` {url} " in error_of(arguments(tmp_path, files=[url]))


def test_a_bad_row_does_not_affect_the_others(tmp_path):
    """In a JSON list and in a CSV file the other rows are kept; each bad row is counted; an empty file is reported."""
    rows = [{"text": DOCUMENTS[0]}, {"text": 5}, {"text": DOCUMENTS[1]}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.csv").write_text(f"text,n\n{DOCUMENTS[2]},1\nx,2,3\n{DOCUMENTS[3]},4\n")
    (tmp_path / "c.jsonl").write_text("")
    manifest = prepare(arguments(tmp_path, "a.json", "b.csv", "c.jsonl", **SKIP, **NO_STEPS))
    assert texts_of(tmp_path / "out") == DOCUMENTS[:4]
    assert manifest["steps"][0]["rows_in"] == 6 and manifest["steps"][0]["dropped"] == {"cannot be read": 2}
    assert unreadable(manifest) == {"a.json": 1, "b.csv": 1, "c.jsonl": "file"}
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text()
    assert "is empty" in error_of(arguments(tmp_path, "c.jsonl", output_dir=str(tmp_path / "other"), **NO_STEPS))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gz", "zst"])
def test_rows_before_the_end_of_a_truncated_file_are_kept(tmp_path, compress):
    """The end is counted as one unreadable row, and its reason names the last row before it."""
    texts = [f"{random.Random(number).getrandbits(8000):x} of text {number}" for number in range(400)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    name = f"a.jsonl.{'gz' if compress is gzip.compress else 'zst'}"
    (tmp_path / name).write_bytes(compress(lines)[:-100_000])
    manifest = prepare(arguments(tmp_path, name, **SKIP, **NO_STEPS))
    kept = texts_of(tmp_path / "out")
    assert kept == texts[: len(kept)] and 200 < len(kept) < 400 and unreadable(manifest) == {name: "file"}
    assert f"cannot be read after row {len(kept) - 1}" in dropped_rows(tmp_path / "out")[-1]["reason"]


def test_files_without_texts_are_counted_with_on_error_skip(tmp_path):
    """Empty and blank files count once; broken lines, other types and rows without the column count each."""
    (tmp_path / "good.txt").write_text(DOCUMENTS[0])
    contents = {
        "a.json": "[1]", "b.jsonl": "\n\n\n", "c.json": "  ", "d.jsonl": "not json\nneither\n", "e.jsonl": "5\n6\n",
        "f.jsonl": "\ufeff", "g.jsonl": '{"id": 1}\n{"text": "x"}\n', "h.jsonl": '{"body": "x"}\n{"body": "y"}\n',
        "i.json": '[{"body": "x"}]',
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    manifest = prepare(arguments(tmp_path, "good.txt", *contents, **SKIP, **NO_STEPS))
    rows = {"a.json": 1, "d.jsonl": 2, "e.jsonl": 2, "g.jsonl": 1, "h.jsonl": 2, "i.json": 1}
    assert unreadable(manifest) == dict.fromkeys(contents, "file") | rows and manifest["rows"] == 2
    reasons = {(row["source"], row["row"]): row["reason"] for row in dropped_rows(tmp_path / "out")}
    problem = "`g.jsonl` line 1 has no column `text`, only id: choose with --dataset_text_field"
    assert reasons["g.jsonl", "0"] == problem
    for name, origin in (("h.jsonl", "line 1"), ("i.json", "row 0")):
        assert (
            reasons[name, "0"] == f"`{name}` {origin} has no column `text`, only body: choose with --dataset_text_field"
        )
    assert ("h.jsonl", "2") not in reasons


def test_an_empty_text_or_a_null_is_dropped_as_too_short(tmp_path):
    """It is not an error, which would stop a run over thousands of files; worker processes make no difference."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": ""}) + '\n{"text": null}\n{"text": "one"}\n')
    (tmp_path / "b.json").write_text('[{"text": null}, {"text": "two"}]')
    texts = pa.array(["three", None, "three"])
    pq.write_table(pa.table({"text": texts}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": texts.dictionary_encode()}), tmp_path / "d.parquet")
    for name, settings in (("steps", {}), ("no_steps", NO_STEPS)):
        files = ("a.jsonl", "b.json", "c.parquet", "d.parquet")
        manifest = prepare(arguments(tmp_path, *files, output_dir=str(tmp_path / name), **settings))
        assert manifest["steps"][2]["dropped"] == {"no text": 5} and manifest["rows"] == 3


def test_changed_texts_are_counted_for_each_step(tmp_path):
    """Their number and the removed bytes, also in texts that a later step drops: the bytes add up."""
    question = "Who built the first stone bridge across the wide and cold northern river in that year?"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"q": question}) + "\n")
    lines = "\n".join(
        ["A line that ends as a sentence should.", "Home | About", *[f"It rained on day {i}." for i in "abcde"]]
    )
    texts = [
        f"{lines}\n{DOCUMENTS[0]}  \nIt was asked: {question} By jo@example.org.",
        f"{lines}\r\n",
        "It snowed in the end.",
    ]
    write_lines(tmp_path / "a.jsonl", texts)
    settings = {"decontaminate": [str(tmp_path / "eval.jsonl")], "decontamination_mode": "cut", "quality_rules": ["c4"]}
    manifest = prepare(arguments(tmp_path, "a.jsonl", near_deduplication=False, **settings))
    changed = {step["step"]: step["changed"] for step in manifest["steps"] if step["changed"]}
    assert changed == {"cleaning": 2, "quality": 2, "decontamination": 1, "anonymization": 1}
    removed = {step["step"]: step["bytes_in"] - step["bytes_out"] for step in manifest["steps"]}
    dropped = [*["Home | About\n"] * 2, f"{DOCUMENTS[0]}\n", texts[2]]  # the last text has too few sentences
    assert removed["cleaning"] == 4 and removed["quality"] == sum(map(len, dropped))
    assert removed["decontamination"] == len(question) - 1  # the question mark is kept
    assert removed["anonymization"] == len("jo@example.org") - len("<EMAIL>")
    (kept, short) = texts_of(tmp_path / "out")
    assert manifest["bytes"] == len(kept) + len(short) and "asked: ? By <EMAIL>." in kept


def test_every_dropped_row_is_listed(prepared):
    """In the order of the sources, with its step, and a duplicate with the earlier row."""
    rows = dropped_rows(prepared[0].parent / "prepared")
    assert [(row["source"], row["row"], row["step"]) for row in rows] == [
        ("raw/c.csv", "0", "exact duplicates"),
        ("raw/d.parquet", "1", "near duplicates"),
        ("raw/f.jsonl", "0", "decontamination"),
    ]
    assert [(row["like_source"], row["like_row"]) for row in rows] == [
        ("raw/a.jsonl", "3"),
        ("raw/a.jsonl", "5"),
        ("", ""),
    ]


def test_the_report_has_no_personal_data(tmp_path):
    """Excerpts are anonymized even if the text was dropped before the anonymization."""
    french = "Écrivez à marie.dupont@secret.example ou appelez le +33 1 23 45 67 89 avant la fin de la semaine."
    write_lines(
        tmp_path / "a.jsonl", [*DOCUMENTS[:2], french, "Please write to jo@secret.example before the end of it."]
    )
    prepare(arguments(tmp_path, "a.jsonl", languages=["en"], language_threshold=0.01))
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Écrivez à <EMAIL>" in report and "secret" not in report


def test_texts_that_are_too_short_after_decontamination_are_dropped(tmp_path):
    """If only a full stop is left, or fewer than `min_chars` characters."""
    question = " ".join(DOCUMENTS[7].split() + DOCUMENTS[8].split())
    (tmp_path / "eval.jsonl").write_text(json.dumps({"q": question}) + "\n")
    write_lines(tmp_path / "a.jsonl", [DOCUMENTS[0], f"{question}.", f"Well, {question}"])
    settings = {"decontaminate": [str(tmp_path / "eval.jsonl")], "decontamination_mode": "cut", "min_chars": 10}
    manifest = prepare(arguments(tmp_path, "a.jsonl", **settings))
    assert texts_of(tmp_path / "out") == DOCUMENTS[:1]
    dropped = {step["step"]: step["dropped"] for step in manifest["steps"] if step["dropped"]}
    assert dropped["decontamination"] == {"all of it is in an evaluation": 1, "fewer than 10 characters": 1}


def test_the_step_that_drops_the_last_row_is_reported(tmp_path):
    """With its reasons and their counts; no files are written."""
    write_lines(tmp_path / "a.jsonl", DOCUMENTS[:3])
    message = error_of(arguments(tmp_path, "a.jsonl", min_chars=1000))
    assert "no row of 3 is left after the step `length`: fewer than 1000 characters (3)" in message
    message = error_of(arguments(tmp_path, "a.jsonl", languages=["zh"]))
    assert "no row of 3 is left after the step `language`: in `en` (3)" in message
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("not json\n")
    message = error_of(arguments(tmp_path, "a.jsonl", min_chars=1000, **SKIP))
    assert message.endswith("after the step `length`: fewer than 1000 characters (3)")  # nothing of the broken row
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_wrong_settings_are_reported_before_anything_is_read(tmp_path):
    """An empty evaluation file, a wrong language, pseudonyms without a key of 16 bytes, an output folder in use."""
    write_lines(tmp_path / "a.jsonl", DOCUMENTS[:3])
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt` is empty" in error_of(
        arguments(tmp_path, "a.jsonl", decontaminate=[str(tmp_path / "empty.txt")])
    )
    assert "`--languages` 'english' is not a language code" in error_of(
        arguments(tmp_path, "a.jsonl", languages=["english"])
    )
    assert "`--languages` 'xq'" in error_of(arguments(tmp_path, "a.jsonl", languages=["xq"]))
    assert "`--pseudonym_key_file`" in error_of(arguments(tmp_path, "a.jsonl", anonymize="pseudonyms"))
    for name, problem in (("short", "3 bytes"), ("none", "No such file")):
        settings = {"anonymize": "pseudonyms", "pseudonym_key_file": str(tmp_path / name)}
        assert problem in error_of(arguments(tmp_path, "a.jsonl", **settings))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "not an empty folder" in error_of(arguments(tmp_path, "a.jsonl"))
    assert (tmp_path / "out" / "precious").exists()


def test_files_of_a_killed_run_are_removed(tmp_path):
    """The next run writes complete files only; none of them has the key of the pseudonyms."""
    write_lines(tmp_path / "a.jsonl", ["Ask jo@example.org about it.", "And al@example.org, jo@example.org."])
    (tmp_path / ".out.tmp" / "spool").mkdir(parents=True)
    (tmp_path / ".out.tmp" / "part-00007.parquet").write_text("half")
    key = os.urandom(16).hex()
    (tmp_path / "key").write_text(key)
    prepare(arguments(tmp_path, "a.jsonl", anonymize="pseudonyms", pseudonym_key_file=str(tmp_path / "key")))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    written = {"README.md", "manifest.json", "report.md", "funnel.png", "dropped.tsv.gz"}
    assert names == written | {"part-00000.parquet"}
    assert not (tmp_path / ".out.tmp").exists()
    assert not any(key.encode() in path.read_bytes() for path in (tmp_path / "out").iterdir())
    first, second = texts_of(tmp_path / "out")
    assert first.split()[1] == second.split()[-1].rstrip(".") != second.split()[1].rstrip(",")


# The recipe


RECIPE = ROOT / "recipes" / "prepare_data.py"


def test_a_killed_run_leaves_no_output_and_the_same_command_completes_it(processes, prepared, tmp_path):
    """It is killed while rows are spooled; the next run then writes the same bytes as an undisturbed one."""
    folder = prepared[0]
    command = [sys.executable, RECIPE, "--files", folder, "--output_dir", tmp_path / "out", "--shard_bytes", 1000]
    command += ["--decontaminate", folder.parent / "questions.jsonl"]
    process = processes.start(command, tmp_path)
    while process.poll() is None and not (tmp_path / ".out.tmp" / "spool").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert processes.finish(process).status == -signal.SIGKILL and not (tmp_path / "out").exists()
    finished = processes.run(command, tmp_path)
    assert finished.status == 0, finished.stderr
    assert re.search(r"near duplicates: .* -1\n", finished.stdout) and re.search(
        r"EMAIL replaced +1\n", finished.stdout
    )
    expected = {path.name: path.read_bytes() for path in (folder.parent / "prepared").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected


def test_bad_input_ends_in_one_line(tmp_path, monkeypatch, capfd):
    """With the file, the line and the remedy; exit status 2, no output. In this process: the imports take seconds."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": DOCUMENTS[0]}) + '\n{"text":\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(RECIPE), "--files", "a.jsonl", "--output_dir", "out"])
    monkeypatch.setattr(logging.getLogger("hf_llm"), "handlers", [])  # the recipe sets its own
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPE), run_name="__main__")
    stderr = capfd.readouterr().err
    (line,) = [line for line in stderr.splitlines() if line.startswith("error")]
    assert ended.value.code == 2 and "Traceback" not in stderr
    assert f"`{tmp_path / 'a.jsonl'}` line 2: " in line and "--on_error skip" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_repeated_lines_are_removed_on_demand(tmp_path):
    """A text with no other lines is dropped and counted, the bytes add up, and the report shows the line."""
    menu = "Home | Products | About us | Contact | Terms of use and privacy policy of this site"
    texts = [f"{menu}\n{DOCUMENTS[0]}", f"{menu}\n{DOCUMENTS[1]}", menu, DOCUMENTS[2]]
    write_lines(tmp_path / "a.jsonl", texts)
    args = arguments(tmp_path, "a.jsonl", passage_deduplication="lines", **NO_STEPS)
    manifest = prepare(args, train_tokenizer(texts, 300))
    assert texts_of(tmp_path / "out") == [texts[0], DOCUMENTS[1], DOCUMENTS[2]]
    step = manifest["steps"][-1]
    assert step["step"] == "repeated passages" and sum(step["dropped"].values()) == 1 == step["changed"]
    assert step["bytes_out"] == manifest["bytes"] == sum(len(text) for text in texts_of(tmp_path / "out"))
    assert step["rows_out"] == manifest["rows"] == 3 and manifest["tokens"] > 0
    assert f"| 2 | {menu.replace('|', '/')} |" in (tmp_path / "out" / "report.md").read_text()
    assert not (tmp_path / "out" / "spool").exists()
