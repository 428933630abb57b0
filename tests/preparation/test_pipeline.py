"""Prepared folders are complete, the same for the same input, and account for every row."""

import csv
import functools
import gzip
import hashlib
import http.server
import json
import os
import random
import re
import signal
import sys
import threading
import time

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import ROOT

from hf_llm.arguments import PreparationArguments, TextArguments
from hf_llm.data.locations import find_sources
from hf_llm.data.readers import READERS, read_documents
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


def settings(tmp_path, *files, **given):
    given = {"files": [str(tmp_path / name) for name in files], "output_dir": str(tmp_path / "out")} | given
    return PreparationArguments(**given)


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def texts_of(folder):
    return [text for path in sorted(folder.glob("*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]


def dropped_rows(folder):
    with gzip.open(folder / "dropped.tsv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def card_of(folder):
    return (folder / "README.md").read_text()


def error_of(args):
    with pytest.raises(ValueError) as info:
        prepare(args)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Files of all formats with duplicates, an e-mail address, a page and a question of an evaluation."""
    folder = tmp_path_factory.mktemp("raw")
    write_lines(folder / "a.jsonl", [*DOCUMENTS[:20], "Write to jo@example.org, or call 212-555-0147!"])
    with gzip.open(folder / "b.txt.gz", "wt") as file:
        file.write("A text\r\nby itselfâ€™s\x07.")
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
    """From step to step, by reason; the shards hold what is left."""
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
    """Cleaned and anonymised, pages without their frames; the row they are from stands beside them."""
    folder, manifest = prepared
    texts = texts_of(folder.parent / "prepared")
    assert texts[:20] == DOCUMENTS[:20]
    assert texts[20:24] == ["Write to <EMAIL>, or call <PHONE>!", "A text\nby itself’s.", *DOCUMENTS[21:23]]
    assert "merchants" in texts[24] and "Imprint" not in texts[24]
    assert manifest["replaced"] == {"EMAIL": 1, "PHONE": 1}
    rows = pa.concat_tables(pq.read_table(path) for path in sorted((folder.parent / "prepared").glob("*.parquet")))
    assert rows["source"].to_pylist()[20:] == ["a.jsonl", "b.txt.gz", "c.csv", "d.parquet", "e.html"]
    assert rows["row"].to_pylist()[20:] == [20, 0, 1, 0, 0]


def test_the_manifest_proves_files_and_sources(prepared):
    """By their hashes; nobody's folders are named in it or in the report."""
    folder, manifest = prepared
    place = folder.parent / "prepared"
    assert json.loads((place / "manifest.json").read_text()) == manifest and len(manifest["shards"]) > 1
    for shard in manifest["shards"]:
        assert hashlib.sha256((place / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    assert [source["name"] for source in manifest["sources"]] == sorted(os.listdir(folder))
    for source in manifest["sources"]:
        assert hashlib.sha256((folder / source["name"]).read_bytes()).hexdigest() == source["sha256"]
    for name in ("manifest.json", "report.md", "README.md"):
        assert str(folder.parent) not in (place / name).read_text()


def test_the_report_shows_the_funnel_and_what_was_dropped(prepared):
    """A plot, a table, and rows with the place they were at."""
    place = prepared[0].parent / "prepared"
    report = (place / "report.md").read_text()
    assert (place / "funnel.png").stat().st_size > 5000 and "(funnel.png)" in report
    assert "| exact duplicates | 27 | 26 |" in report and "c.csv row 0, duplicate of a.jsonl row 3" in report
    assert "13 consecutive words of an evaluation (1)" in report


def test_the_same_input_gives_the_same_bytes(prepared, tmp_path):
    """Every file of the folder."""
    folder, manifest = prepared
    given = {"decontaminate": [str(folder.parent / "questions.jsonl")], "shard_bytes": 1000}
    again = prepare(PreparationArguments(files=[str(folder)], output_dir=str(tmp_path / "again"), **given))
    assert again == manifest
    before = {path.name: path.read_bytes() for path in (folder.parent / "prepared").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == before


def test_the_folder_can_be_trained_on(prepared, tmp_path, monkeypatch):
    """As it is, by its name; the manifest is no text."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    folder = prepared[0].parent / "prepared"
    parts = load_splits(TextArguments(train_file=[str(folder)]), 0)
    assert sorted([*parts["train"]["text"], *parts["validation"]["text"]]) == sorted(texts_of(folder))


def test_the_card_tells_the_hub_how_to_load_the_folder(prepared, tmp_path):
    """`load_dataset` finds the shards by it."""
    folder = prepared[0].parent / "prepared"
    rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))["train"]
    assert rows["text"][:] == texts_of(folder) and rows.column_names == ["text", "source", "row"]


def test_tokens_are_counted_by_the_tokenizer(tmp_path):
    """Those that it adds to each text too."""
    write_lines(tmp_path / "a.jsonl", DOCUMENTS)
    tokenizer = train_tokenizer(DOCUMENTS, 300)
    manifest = prepare(settings(tmp_path, "a.jsonl"), tokenizer)
    assert manifest["tokens"] == sum(len(ids) for ids in tokenizer(DOCUMENTS).input_ids)


def test_what_cannot_be_read_stops_the_run_or_is_counted(tmp_path):
    """Named by file and row, however it is broken; nothing is left of a run that stopped."""
    good = json.dumps({"text": DOCUMENTS[0]})
    (tmp_path / "lines.jsonl").write_bytes(
        b"\n".join([good.encode(), b'{"text": ', b'{"text": 3}', b'{"other": "x"}', b'{"text": "\xff"}'])
    )
    (tmp_path / "binary.txt").write_bytes(b"GIF89a\x00\x01")
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(good.encode() * 50)[:60])
    (tmp_path / "fake.parquet").write_text("no")
    message = error_of(settings(tmp_path, "lines.jsonl"))
    assert f"`{tmp_path / 'lines.jsonl'}` line 2: " in message and "--on_error skip" in message
    assert not list(tmp_path.glob("*out*"))
    names = ["binary.txt", "cut.jsonl.gz", "fake.parquet", "latin.txt", "lines.jsonl"]
    for name in names[:-1]:
        assert f"`{tmp_path / name}`" in error_of(settings(tmp_path, name))
    manifest = prepare(settings(tmp_path, *names, on_error="skip"))
    assert manifest["steps"][0] | {"bytes_in": 0, "bytes_out": 0} == {
        "step": "read",
        "rows_in": 9,
        "rows_out": 1,
        "bytes_in": 0,
        "bytes_out": 0,
        "changed": 0,
        "dropped": {"cannot be read": 8},
    }
    unreadable = {source["name"]: source.get("unreadable") for source in manifest["sources"]}
    assert unreadable == dict.fromkeys(names[:-1], 1) | {"lines.jsonl": 4}
    report, dropped = (tmp_path / "out" / "report.md").read_text(), dropped_rows(tmp_path / "out")
    assert [row["source"] for row in dropped] == [*names[:-1], *["lines.jsonl"] * 4]
    assert all(row["step"] == "read" and row["reason"] in report for row in dropped)
    assert "`cut.jsonl.gz` cannot be read" in dropped[1]["reason"] and "(60 bytes; 1 rows" in card_of(tmp_path / "out")


@pytest.fixture
def server(tmp_path):
    """The address of a web server of `tmp_path`."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


def test_files_at_an_address_are_read_like_others(tmp_path, server):
    """Packed ones and Parquet too, behind the local ones; a password in the address is not written anywhere."""
    write_lines(tmp_path / "local.jsonl", DOCUMENTS[:1])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": DOCUMENTS[1]}).encode()))
    pq.write_table(pa.table({"text": [DOCUMENTS[2]]}), tmp_path / "b.parquet")
    args = settings(tmp_path, "local.jsonl")
    args.files = [f"http://{server}/b.parquet", f"http://jo:geheim@{server}/a.jsonl.gz", *args.files]
    manifest = prepare(args)
    assert texts_of(tmp_path / "out") == [DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1]]
    assert {source["name"] for source in manifest["sources"]} >= {f"http://{server}/a.jsonl.gz", "local.jsonl"}
    assert not any(b"geheim" in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_addresses_that_lead_nowhere_are_named(tmp_path, server):
    """A missing file, a missing host, a folder without files."""
    for url in (f"http://{server}/none.jsonl", "http://127.0.0.1:9/a.jsonl", "memory://nothing/*.jsonl"):
        assert f"`--files` {url} " in error_of(settings(tmp_path, files=[url]))


def test_folders_and_globs_at_an_address_are_expanded():
    """As those of the disk are, and kept as addresses."""
    filesystem = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.txt.gz", "c.bin", "deep/d.csv"):
        filesystem.pipe(f"/corpus/{name}", b"x")
    assert [url.rpartition("corpus/")[2] for url in find_sources("--files", ["memory://corpus"])] == [
        "a.jsonl",
        "b.txt.gz",
        "deep/d.csv",
    ]
    assert len(find_sources("--files", ["memory://corpus/*.jsonl", "memory://corpus/a.jsonl"])) == 1
    filesystem.rm("/corpus", recursive=True)


def test_one_bad_row_costs_no_other(tmp_path):
    """In a list and in a table too; each is counted."""
    rows = [{"text": DOCUMENTS[0]}, {"text": 5}, {"text": DOCUMENTS[1]}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.csv").write_text(f"text,n\n{DOCUMENTS[2]},1\nx,2,3\n{DOCUMENTS[3]},4\n")
    (tmp_path / "c.jsonl").write_text("")
    manifest = prepare(settings(tmp_path, "a.json", "b.csv", "c.jsonl", on_error="skip"))
    assert texts_of(tmp_path / "out") == DOCUMENTS[:4]
    assert manifest["steps"][0]["rows_in"] == 7 and manifest["steps"][0]["dropped"] == {"cannot be read": 3}
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text()
    assert "is empty" in error_of(settings(tmp_path, "c.jsonl", output_dir=str(tmp_path / "other")))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gz", "zst"])
def test_the_rows_before_a_break_stay(tmp_path, pack):
    """Of a compressed file that is cut short; the break is counted, and named with the last row before it."""
    texts = [f"{random.Random(number).getrandbits(8000):x} of text {number}" for number in range(400)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    name = f"a.jsonl.{'gz' if pack is gzip.compress else 'zst'}"
    (tmp_path / name).write_bytes(pack(lines)[:-100_000])
    manifest = prepare(settings(tmp_path, name, on_error="skip"))
    kept = texts_of(tmp_path / "out")
    assert kept == texts[: len(kept)] and 200 < len(kept) < 400 and manifest["sources"][0]["unreadable"] == 1
    assert f"cannot be read after row {len(kept) - 1}" in dropped_rows(tmp_path / "out")[-1]["reason"]


def test_files_without_a_text_are_counted_once_and_stop_nothing(tmp_path):
    """An empty list, blank lines, broken lines alone, other values, nulls, a table of nulls, no such column."""
    (tmp_path / "good.txt").write_text(DOCUMENTS[0])
    contents = {
        "a.json": "[]", "b.jsonl": "\n\n\n", "c.json": "  ", "d.jsonl": "not json\nneither\n", "e.jsonl": "5\n6\n",
        "f.jsonl": "\ufeff", "g.jsonl": '{"text": null, "id": 1}\n', "h.jsonl": '{"body": "x"}\n{"body": "y"}\n',
        "i.json": '[{"body": "x"}]',
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    pq.write_table(pa.table({"text": pa.nulls(1500, pa.string())}), tmp_path / "j.parquet")
    manifest = prepare(settings(tmp_path, "good.txt", *contents, "j.parquet", on_error="skip"))
    unreadable = {source["name"]: source.get("unreadable") for source in manifest["sources"]}
    several = {"d.jsonl": 2, "e.jsonl": 2, "h.jsonl": 2, "j.parquet": 1500}
    assert unreadable == dict.fromkeys(contents, 1) | several | {"good.txt": None} and manifest["rows"] == 1
    reasons = {(row["source"], row["row"]): row["reason"] for row in dropped_rows(tmp_path / "out")}
    assert reasons["g.jsonl", "0"] == "`g.jsonl` row 0 has no `text`"
    for name in ("h.jsonl", "i.json"):
        assert reasons[name, "0"] == f"`{name}` row 0 has no column `text`, only body: choose with --dataset_text_field"
    assert ("h.jsonl", "2") not in reasons


def test_a_broken_address_gives_no_secret_away(tmp_path, monkeypatch):
    """However long it is: the message is cut behind it."""
    secret = "s3cr3t" * 40

    def fail(path, field):
        raise OSError(f"cannot open '{path}' nor http://jo:{secret}@127.0.0.1/x?token={secret}")

    monkeypatch.setitem(READERS, ".txt", fail)
    path = f"http://127.0.0.1/{'deep/' * 40}a.txt?token={secret}"
    ((_, problems),) = read_documents(path, "text")
    assert "s3cr3t" not in problems[0].replace(path, "") and "the file" in problems[0]


def test_an_empty_text_is_a_short_one(tmp_path):
    """It can be read, and does not stop a run over thousands of files."""
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text(DOCUMENTS[0])
    manifest = prepare(settings(tmp_path, "a.txt", "b.txt"))
    assert manifest["steps"][2]["dropped"] == {"fewer than 1 characters": 1} and manifest["rows"] == 1


def test_what_changes_texts_is_counted_step_by_step(tmp_path):
    """How many, and by how many bytes; also of those that a later step drops, so that the bytes add up."""
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
    given = {"decontaminate": [str(tmp_path / "eval.jsonl")], "decontamination_mode": "cut", "quality_rules": ["c4"]}
    manifest = prepare(settings(tmp_path, "a.jsonl", near_deduplication=False, **given))
    changed = {step["step"]: step["changed"] for step in manifest["steps"] if step["changed"]}
    assert changed == {"cleaning": 2, "quality": 2, "decontamination": 1, "anonymization": 1}
    taken = {step["step"]: step["bytes_in"] - step["bytes_out"] for step in manifest["steps"]}
    lost = [*["Home | About\n"] * 2, f"{DOCUMENTS[0]}\n", texts[2]]  # the last has too few sentences
    assert taken["cleaning"] == 4 and taken["quality"] == sum(map(len, lost))
    assert taken["decontamination"] == len(question) - 1  # its mark stays
    assert taken["anonymization"] == len("jo@example.org") - len("<EMAIL>")
    (kept, short) = texts_of(tmp_path / "out")
    assert manifest["bytes"] == len(kept) + len(short) and "asked: ? By <EMAIL>." in kept


def test_a_text_that_is_left_out_is_named_with_what_it_is_like(prepared):
    """All of them, in the order of the sources, without their text."""
    rows = dropped_rows(prepared[0].parent / "prepared")
    assert [(row["source"], row["row"], row["step"]) for row in rows] == [
        ("c.csv", "0", "exact duplicates"),
        ("d.parquet", "1", "near duplicates"),
        ("f.jsonl", "0", "decontamination"),
    ]
    assert [(row["like_source"], row["like_row"]) for row in rows] == [("a.jsonl", "3"), ("a.jsonl", "5"), ("", "")]


def test_the_report_has_no_personal_data(tmp_path):
    """Nor of texts that an earlier step left out, nor a password of an address."""
    french = "Écrivez à marie.dupont@secret.example ou appelez le +33 1 23 45 67 89 avant la fin de la semaine."
    write_lines(
        tmp_path / "a.jsonl", [*DOCUMENTS[:2], french, "Please write to jo@secret.example before the end of it."]
    )
    prepare(settings(tmp_path, "a.jsonl", languages=["en"], language_threshold=0.01))
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Écrivez à <EMAIL>" in report and "secret" not in report


def test_what_is_left_of_a_cut_text_is_long_enough(tmp_path):
    """A full stop is no text."""
    question = " ".join(DOCUMENTS[7].split() + DOCUMENTS[8].split())
    (tmp_path / "eval.jsonl").write_text(json.dumps({"q": question}) + "\n")
    write_lines(tmp_path / "a.jsonl", [DOCUMENTS[0], f"{question}.", f"Well, {question}"])
    given = {"decontaminate": [str(tmp_path / "eval.jsonl")], "decontamination_mode": "cut", "min_chars": 10}
    manifest = prepare(settings(tmp_path, "a.jsonl", **given))
    assert texts_of(tmp_path / "out") == DOCUMENTS[:1]
    dropped = {step["step"]: step["dropped"] for step in manifest["steps"] if step["dropped"]}
    assert dropped["decontamination"] == {"all of it is in an evaluation": 1, "fewer than 10 characters": 1}


def test_a_manifest_of_something_else_is_no_prepared_folder(tmp_path):
    """Its folder is one of files."""
    write_lines(tmp_path / "a.jsonl", DOCUMENTS[:2])
    for content in ('{"name": "extension"}', "[1, 2]"):
        (tmp_path / "manifest.json").write_text(content)
        assert f"{tmp_path}/a.jsonl" in find_sources("--files", [str(tmp_path)])


def test_a_step_that_leaves_no_row_is_named(tmp_path):
    """And nothing is written."""
    write_lines(tmp_path / "a.jsonl", DOCUMENTS[:3])
    message = error_of(settings(tmp_path, "a.jsonl", min_chars=1000))
    assert "no row of 3 is left after the step `length`: fewer than 1000 characters (3)" in message
    message = error_of(settings(tmp_path, "a.jsonl", languages=["zh"]))
    assert "no row of 3 is left after the step `language`: in `en` (3)" in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_settings_that_cannot_be_are_told_before_anything_is_read(tmp_path):
    """A folder that holds something, an unknown language, pseudonyms without a key or with a short one."""
    write_lines(tmp_path / "a.jsonl", DOCUMENTS[:3])
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt is empty" in error_of(settings(tmp_path, "a.jsonl", decontaminate=[str(tmp_path / "empty.txt")]))
    assert "`--languages` 'english' is no language code" in error_of(
        settings(tmp_path, "a.jsonl", languages=["english"])
    )
    assert "`--languages` xq" in error_of(settings(tmp_path, "a.jsonl", languages=["xq"]))
    assert "`--pseudonym_key_file`" in error_of(settings(tmp_path, "a.jsonl", anonymize="pseudonyms"))
    for name, problem in (("short", "3 bytes"), ("none", "No such file")):
        given = {"anonymize": "pseudonyms", "pseudonym_key_file": str(tmp_path / name)}
        assert problem in error_of(settings(tmp_path, "a.jsonl", **given))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "not an empty folder" in error_of(settings(tmp_path, "a.jsonl"))
    assert (tmp_path / "out" / "precious").exists()


def test_what_a_killed_run_left_is_removed(tmp_path):
    """And the pseudonyms' key is in no file."""
    write_lines(tmp_path / "a.jsonl", ["Ask jo@example.org about it.", "And al@example.org, jo@example.org."])
    (tmp_path / ".out.tmp" / "spool").mkdir(parents=True)
    (tmp_path / ".out.tmp" / "part-00007.parquet").write_text("half")
    key = os.urandom(16).hex()
    (tmp_path / "key").write_text(key)
    prepare(settings(tmp_path, "a.jsonl", anonymize="pseudonyms", pseudonym_key_file=str(tmp_path / "key")))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    written = {"README.md", "manifest.json", "report.md", "funnel.png", "dropped.tsv.gz"}
    assert names == written | {"part-00000.parquet"}
    assert not (tmp_path / ".out.tmp").exists()
    assert not any(key.encode() in path.read_bytes() for path in (tmp_path / "out").iterdir())
    first, second = texts_of(tmp_path / "out")
    assert first.split()[1] == second.split()[-1].rstrip(".") != second.split()[1].rstrip(",")


# The recipe as a process


RECIPE = [sys.executable, ROOT / "recipes" / "prepare_data.py"]


def test_a_killed_run_leaves_nothing_and_the_same_command_completes_it(processes, prepared, tmp_path):
    """Killed when the first rows are on the disk; then every byte is that of an undisturbed run."""
    folder = prepared[0]
    command = [*RECIPE, "--files", folder, "--output_dir", tmp_path / "out", "--shard_bytes", 1000]
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


def test_bad_input_ends_in_one_line(processes, tmp_path):
    """With the file, the line and the remedy; exit status 2, nothing left behind."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": DOCUMENTS[0]}) + '\n{"text":\n')
    finished = processes.run([*RECIPE, "--files", "a.jsonl", "--output_dir", "out"], tmp_path)
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error")]
    assert finished.status == 2 and "Traceback" not in finished.stderr
    assert f"`{tmp_path / 'a.jsonl'}` line 2: " in line and "--on_error skip" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_lines_that_stand_in_many_texts_are_left_out_on_demand(tmp_path):
    """After whole duplicates; a text that is nothing else is dropped, counted and shown, and the bytes add up."""
    menu = "Home | Products | About us | Contact | Terms of use and privacy policy of this site"
    texts = [f"{menu}\n{DOCUMENTS[0]}", f"{menu}\n{DOCUMENTS[1]}", menu, DOCUMENTS[2]]
    write_lines(tmp_path / "a.jsonl", texts)
    settings = {"files": [str(tmp_path / "a.jsonl")], "output_dir": str(tmp_path / "out")}
    manifest = prepare(PreparationArguments(**settings, passage_deduplication="lines"), train_tokenizer(texts, 300))
    assert texts_of(tmp_path / "out") == [texts[0], DOCUMENTS[1], DOCUMENTS[2]]
    step = manifest["steps"][-1]
    assert step["step"] == "repeated passages" and sum(step["dropped"].values()) == 1 == step["changed"]
    assert step["bytes_out"] == manifest["bytes"] == sum(len(text) for text in texts_of(tmp_path / "out"))
    assert step["rows_out"] == manifest["rows"] == 3 and manifest["tokens"] > 0
    assert f"| 2 | {menu.replace('|', '/')} |" in (tmp_path / "out" / "report.md").read_text()
    assert not (tmp_path / "out" / "spool").exists()
