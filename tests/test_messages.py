"""Errors end a recipe in one line, with their origin and without secrets; figures are formatted for a reader."""

import errno
import json
import logging
import os
import re
import resource
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
import tqdm.auto
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from datasets.utils import tqdm as Progress
from pyarrow import parquet
from safetensors.torch import save_file
from tiny import new_model
from tokenizers import Tokenizer, models

from hf_llm.arguments import parse_duration
from hf_llm.files import locked, write_text
from hf_llm.messages import (
    MAX_ERROR_CHARACTERS,
    MAX_LINE_CHARACTERS,
    ORIGIN,
    add_origin,
    format_duration,
    format_line,
    format_scores,
    format_size,
    format_table,
    format_value,
    one_line,
    print_json,
    report_errors,
    set_last_line,
    set_up_logging,
)


@pytest.mark.parametrize("size, text", [(0, "0 bytes"), (5_900_800, "5.9 MB"), (4.3e9, "4.3 GB"), (1.5e12, "1.5 TB")])
def test_a_number_of_bytes_is_shown_in_its_unit(size, text):
    """A small model does not take 0.0 GB."""
    assert format_size(size) == text


def test_a_bar_that_is_full_within_a_second_is_not_shown(capsys):
    """Each step of the data would show one for each split, full at once."""
    set_up_logging()
    set_up_logging()  # as for every command line that is parsed
    assert list(tqdm.auto.tqdm(range(3))) == list(Progress(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error, status",
    [
        (ValueError("bad\n  input"), 2),
        (FloatingPointError("bad\n  input"), 1),
        (ConnectionError("bad\n  input"), 1),
    ],
)
def test_bad_input_ends_in_one_line_without_a_traceback(error, status, capsys, monkeypatch):
    """With status 2 for bad input, 1 for other errors; `HF_LLM_TRACEBACK=1` shows the traceback."""
    with pytest.raises(SystemExit) as stopped, report_errors():
        raise error
    assert stopped.value.code == status
    assert capsys.readouterr().err == "error: bad input\n"
    monkeypatch.setenv("HF_LLM_TRACEBACK", "1")
    with pytest.raises(type(error)), report_errors():
        raise error


BIG = torch.arange(100_000.0)
VOCABULARY = {f"word{number}": number for number in range(50_000)}


def rows():
    yield from ({"a": "a" * 100} for _ in range(5000))


WRITERS = {
    "text": lambda path: write_text(path, "text" * 100_000),
    "safetensors": lambda path: save_file({"a": BIG}, path),
    "torch": lambda path: torch.save({"a": BIG}, path),
    "numpy": lambda path: BIG.numpy().tofile(path),
    "arrow": lambda path: parquet.write_table(pa.table({"a": BIG.numpy()}), path),
    "tokenizers": lambda path: Tokenizer(models.WordLevel(VOCABULARY, unk_token="word0")).save(str(path)),
    "datasets": lambda path: ArrowWriter(path=str(path)).write_table(pa.table({"a": BIG.numpy()})),
    "generator": lambda path: Dataset.from_generator(rows, cache_dir=str(path)),
    "processes": lambda path: Dataset.from_dict({"a": range(5000)}).map(
        lambda row: {"b": "b" * 100}, cache_file_name=f"{path}.arrow", num_proc=2
    ),
    "transformers": lambda path: new_model().save_pretrained(path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_with_what_is_free_whatever_library_writes(writer, tmp_path, capsys, monkeypatch):
    """A limit of the file size stands for the disk: errors differ in their number alone. Any rank may report it."""
    # A new object, because `datasets` leaves a copy of it after starting processes.
    monkeypatch.setattr(os, "environ", {**os.environ, "RANK": "1", "LOCAL_RANK": "1"})
    monkeypatch.setattr("hf_llm.files.WRITTEN_FOLDERS", [])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(SystemExit) as stopped, report_errors(), locked(tmp_path / ".lock", "`--output_dir`"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            WRITERS[writer](tmp_path / "file")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 1
    shown = rf"error: no room to write a file: .*; free now: [\d,]+ MB for `{tmp_path}`.*: make room, or name another"
    assert re.fullmatch(shown, error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_recognized_under_other_errors(number, capsys):
    """Also where it is the cause of bad input or of a library's error; a text that only quotes its words is none."""
    full, quoted = OSError(number, os.strerror(number)), ValueError(f"row 3: {os.strerror(number)}")
    for cause, expected in ((full, 1), (Exception(f"{os.strerror(number)} (os error {number})"), 1), (quoted, 2)):
        with pytest.raises(SystemExit) as stopped, report_errors():
            try:
                raise cause
            except Exception:
                raise ValueError("cannot load the data") from None
        assert stopped.value.code == expected
        assert (os.strerror(number) in capsys.readouterr().err) == (expected == 1)


def test_a_rank_that_has_lost_another_says_so_in_one_line(capsys):
    """Its own error explains nothing."""
    with pytest.raises(SystemExit), report_errors():
        raise RuntimeError("[/pair.cc:553] Connection closed by peer [127.0.0.1]:37085. GLHF!")
    assert capsys.readouterr().err == "error: another rank has ended: see its error\n"


def test_an_interrupted_recipe_says_how_to_resume(capsys):
    """If it has the flag; with the status that a shell gives to Ctrl-C."""
    for resumes, message in ((True, "interrupted; `--resume_from_checkpoint true` resumes"), (False, "interrupted\n")):
        with pytest.raises(SystemExit) as stopped, report_errors(resumes):
            raise KeyboardInterrupt
        assert stopped.value.code == 130
        assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "ranks, shown", [({"RANK": "1", "LOCAL_RANK": "1"}, False), ({"RANK": "4", "LOCAL_RANK": "0"}, True)]
)
def test_one_rank_of_each_machine_reports_an_error(ranks, shown, capsys, monkeypatch):
    """And an error of a single rank is reported by that rank."""
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    error = ValueError("bad input")
    for expected in (shown, True):
        with pytest.raises(SystemExit), report_errors():
            raise error
        assert capsys.readouterr().err == "error: bad input\n" * expected
        error.of_one_rank = True


def test_messages_of_other_libraries_are_shortened_to_one_line_without_secrets():
    """A URL loses its user, password and query; a long message keeps start and end; no message: the class."""
    error = OSError("cannot open\n  s3://me:pass@host/a.txt?signature=abc, see https://host/help#part")
    assert one_line(error) == "cannot open s3://host/a.txt see https://host/help"
    assert one_line(ValueError("/data/a.csv: bad"), "/data/a.csv") == "the file: bad"
    assert one_line(KeyError()) == "KeyError"
    long = one_line(ValueError("start " + "word " * 100 + "end"))
    assert len(long) <= MAX_ERROR_CHARACTERS and long.startswith("start word") and long.endswith("word end")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("'https://me:pass@host/a?sig=secret1' is gone", "'https://host/a' is gone"),
        ("`https://me:pa/ss@host:8080/a?b=c@d#e`, next", "`https://host:8080/a`, next"),
        ("https://me:pa'ss@host/a", "https://host/a"),
        ("https://secret1@host/package@v2", "https://host/package@v2"),
        ("http://[not an address", "http://[not an address"),
        ("https%3A%2F%2Fhost%3FX-Amz-Signature%3Dsecret1", "https%3A%2F%2Fhost%3FX-Amz-Signature%3D[hidden]"),
        ("/a.txt?AWSAccessKeyId=secret1&Expires=17", "/a.txt?AWSAccessKeyId=[hidden]&Expires=17"),
        ("Authorization: Bearer secret1", "Authorization: Bearer [hidden]"),
        ("{'Authorization': 'Basic secret1=='}", "{'Authorization': 'Basic [hidden]'}"),
        ('{"hub_token": "secret1"}', '{"hub_token": "[hidden]"}'),
        ("invalid: hf_secret1secret1", "invalid: [hidden]"),
        ("write key=value pairs", "write key=value pairs"),
        ("pad_token_id=151643, eos_token=<|endoftext|>", "pad_token_id=151643, eos_token=<|endoftext|>"),
        (
            "`--tokenizer_name=gpt2large`: unexpected token: later",
            "`--tokenizer_name=gpt2large`: unexpected token: later",
        ),
    ],
)
def test_secrets_are_hidden_and_what_only_looks_like_one_is_not(text, shown):
    """In quotes, percent-encoded, in headers and query strings; tokens of a vocabulary are no secrets."""
    assert format_line(text) == shown


def test_no_message_sends_control_characters_to_the_terminal(capsys):
    """Neither an error nor a log message, which keeps its lines; a text that reads from right to left is only shown."""
    data = "a\x1b[31m\x07\u202eb\udcff\x9b שלום"
    safe = r"a\x1b[31m\x07\u202eb\udcff\x9b שלום"
    with pytest.raises(SystemExit), report_errors():
        raise ValueError(f"bad {data}")
    assert capsys.readouterr().err == f"error: bad {safe}\n"
    set_up_logging()
    logging.getLogger("hf_llm.test").warning(f"two\nlines {data} https://me:pass@host/?key=secret1")
    assert capsys.readouterr().err == f"WARNING two\nlines {safe} https://host/\n"


def test_a_value_of_any_size_leaves_a_message_that_can_be_read(capsys):
    """One long word keeps its start, and the remedy after it is shown; so is the end of many words."""
    for value in ("x" * 10**6, "x " * 10**5):
        with pytest.raises(SystemExit), report_errors():
            raise ValueError(f"`--name` {value}: write less")
        error = capsys.readouterr().err
        assert error.startswith("error: `--name` x") and error.endswith(": write less\n")
        assert len(error) < MAX_LINE_CHARACTERS + 10
    assert one_line(ValueError("y" * 10**6)).startswith("y" * 100)


@pytest.mark.parametrize(
    "text", ["a", "=", "://", "://a@", "https://a:", "@:", "token=", "'@", " \x1b", "sk-", "key='"]
)
def test_a_message_takes_time_in_proportion_to_its_length(text):
    """Ten times the text takes far less than the hundred times that a quadratic expression would take."""
    times = []
    for size in (100_000, 1_000_000):
        start = time.process_time()
        format_line(text * (size // len(text)))
        times.append(time.process_time() - start)
    assert times[1] < 40 * times[0] + 1


def test_an_error_in_a_row_begins_with_its_origin():
    """Its file and line, or a default."""
    for row, origin in (({ORIGIN: "`a.csv` line 3"}, "`a.csv` line 3"), ({}, "row 7")):
        with pytest.raises(ValueError, match=f"^{origin}: no text"), add_origin(row, "row 7"):
            raise ValueError("no text")


@pytest.mark.parametrize(
    "value, shown",
    [(1234567, "1,234,567"), (12345.6, "12,346"), (3.14159, "3.142"), (0.000123456, "0.0001235"), ("text", "text")],
)
def test_figures_have_four_significant_digits(value, shown):
    """Integers and floats above 1,000 have all digits before the point, with commas between thousands."""
    assert format_value(value) == shown


def test_a_table_is_aligned():
    """Names on the left, values on the right."""
    assert format_table({"perplexity": 12.5, "tokens": 1000}) == "perplexity   12.5\ntokens      1,000"


def test_the_last_line_of_stdout_is_json_where_it_is_asked_for(capsys, monkeypatch):
    """A result, or the error; numbers that JSON does not have become null; other ranks than the first print nothing."""
    set_last_line(is_json=True)
    try:
        print_json(output_dir="out", metrics={"loss": float("nan"), "rows": np.int64(3), "name": "é"})
        monkeypatch.setenv("RANK", "1")
        print_json(output_dir="out")
        monkeypatch.delenv("RANK")
        with pytest.raises(SystemExit), report_errors():
            raise ValueError("bad\n  input")
    finally:
        set_last_line(is_json=False)
    print_json(output_dir="out")
    result, error = capsys.readouterr().out.splitlines()
    assert json.loads(result) == {"output_dir": "out", "metrics": {"loss": None, "rows": 3, "name": "é"}}
    assert json.loads(error) == {"error": "bad input"}


def test_scores_are_shown_with_their_intervals():
    """Values are aligned with values, not with intervals or words."""
    scores = {"loss": 1.5, "bleu": 46.05, "bleu_ci95_low": 41.69, "bleu_ci95_high": 51.28, "signature": "tok:13a"}
    assert format_scores(scores).splitlines() == [
        "loss         1.5",
        "bleu       46.05  [41.69, 51.28]",
        "signature  tok:13a",
    ]


@pytest.mark.parametrize("seconds, text", [(0.2, "0s"), (59.6, "1m"), (83, "1m23s"), (7200, "2h"), (7500, "2h05m")])
def test_a_duration_is_written_as_a_flag_takes_it(seconds, text):
    """What a message suggests can be copied."""
    assert format_duration(seconds) == text
    if seconds >= 1:
        assert parse_duration(text) == pytest.approx(seconds, abs=30)
