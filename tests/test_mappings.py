"""Flags that take a mapping read pairs, YAML mappings and JSON objects the same way."""

import contextlib
import json
import time

import pytest
import yaml

from hf_llm.arguments import ModelArguments, TaskArguments
from hf_llm.command_line import parse_args
from hf_llm.mappings import format_mapping, parse_mapping, read_json_file, split_pairs
from hf_llm.messages import report_errors

NESTED = {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "layer_types": ["a", "b"], "hidden_size": 64}
TASK = ["--task", "translation"]


def from_file(folder, flag, value):
    """What a flag is where a YAML file sets it."""
    (folder / "run.yaml").write_text(yaml.dump({flag: value}))
    model_args, task_args = parse_args([ModelArguments, TaskArguments], ["--config", str(folder / "run.yaml"), *TASK])
    return getattr(model_args if flag == "config_overrides" else task_args, flag)


def test_overrides_are_a_mapping_in_a_yaml_file_too(tmp_path):
    """Nested mappings, lists and types included."""
    assert from_file(tmp_path, "config_overrides", NESTED) == NESTED


@pytest.mark.parametrize(
    "text",
    [
        "rope_parameters={rope_type: linear, factor: 2.0},layer_types=[a, b],hidden_size=64",
        " hidden_size = 64 , layer_types=[a,b], rope_parameters={rope_type: linear, factor: 2.0},",
        json.dumps(NESTED),
    ],
)
def test_pairs_and_json_say_what_a_yaml_mapping_says(text):
    """Commas inside braces and brackets belong to the value."""
    assert parse_args([ModelArguments], ["--config_overrides", text])[0].config_overrides == NESTED


@pytest.mark.parametrize("flag", ["config_overrides", "task_options", "column_mapping"])
@pytest.mark.parametrize(
    "text, message",
    [
        ("source", "`--FLAG` has `source`: write key=value pairs, separated by commas"),
        ("a=1,=2", "`--FLAG` has `=2`: write key=value pairs"),
        ("a=1,b=2,a=3", "`--FLAG` has `a` twice: keep one"),
        ("a={b: 1", "`--FLAG` has `a={b: 1`: close its bracket or brace"),
        ('{"a": 1, "a": 2}', "`--FLAG`: `a` appears twice: keep one"),
        ('{"a": 1', "`--FLAG`, line 1, column 8, is not JSON"),
    ],
)
def test_what_is_no_mapping_is_refused_by_every_flag(flag, text, message, capsys):
    """In one line, with the flag, the pair and the remedy."""
    with pytest.raises(SystemExit) as stopped, report_errors():
        parse_args([ModelArguments, TaskArguments], [f"--{flag}", text, *TASK])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.replace("FLAG", flag) in line


def test_a_wrong_pair_in_a_file_is_reported_with_the_file(tmp_path, capsys):
    """A nested key that appears twice, too."""
    for text, message in {
        "task_options: source": "has `source`: write key=value pairs",
        "config_overrides: {rope_parameters: {factor: 2, factor: 3}}": "`factor` appears twice: keep one",
    }.items():
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(SystemExit), report_errors():
            parse_args([ModelArguments, TaskArguments], ["--config", str(tmp_path / "run.yaml"), *TASK])
        error = capsys.readouterr().err
        assert "run.yaml`: " in error and message in error


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    """PyYAML reads 1e-4 as text; a value in quotation marks is text."""
    expected = {"a": 1e-4, "b": 2e-5, "c": 5e5, "d": -2.5e3, "e": "1e4", "f": {"g": 1e-6}, "h": True, "i": None}
    pairs = 'a=1e-4,b=2e-5,c=5e5,d=-2.5E3,e="1e4",f={g: 1e-6},h=true,i='
    assert parse_mapping("--x", pairs) == expected
    (tmp_path / "run.yaml").write_text(
        'config_overrides: {a: 1e-4, b: 2e-5, c: 5e5, d: -2.5E3, e: "1e4", f: {g: 1e-6}, h: true, i: null}'
    )
    assert parse_args([ModelArguments], ["--config", str(tmp_path / "run.yaml")])[0].config_overrides == expected


def test_options_of_a_task_stay_the_text_that_they_are(tmp_path):
    """`no` is Norwegian on a command line; in a YAML file values have types."""
    _, task_args = parse_args([ModelArguments, TaskArguments], [*TASK, "--task_options", "target=no,max_new_tokens=7"])
    assert task_args.task_options == {"target": "no", "max_new_tokens": "7"}
    assert from_file(tmp_path, "task_options", {"target": "no", "max_new_tokens": 7}) == {
        "target": "no",
        "max_new_tokens": 7,
    }


@pytest.mark.parametrize(
    "text, expected",
    [
        ("labels=don't|do,n=5", {"labels": "don't|do", "n": "5"}),
        ('labels="card, lost|card",n=5', {"labels": "card, lost|card", "n": "5"}),
        ("labels='it''s, here'", {"labels": "it's, here"}),
        ("labels=a[1|b,n=5", {"labels": "a[1|b", "n": "5"}),
        ("labels=a=b", {"labels": "a=b"}),
        ("", {}),
    ],
)
def test_punctuation_within_a_text_is_part_of_it(text, expected):
    """Brackets and quotation marks count only where a value begins with them; mappings are written as they are read."""
    assert parse_mapping("--task_options", text, text_values=True) == expected
    assert parse_mapping("--task_options", format_mapping(expected), text_values=True) == expected


def test_mappings_are_written_as_the_pairs_that_they_came_from():
    """The results file of an evaluation has the options as the command line had them."""
    text = "source=en,target=de,max_new_tokens=64"
    assert format_mapping(parse_mapping("--task_options", text, text_values=True)) == text
    assert parse_mapping("--x", format_mapping(NESTED)) == NESTED


def test_a_mapping_in_braces_needs_no_quotation_marks():
    """What a YAML file says after `config_overrides:` works on the command line too; JSON keeps its own escapes."""
    text = "{hidden_size: 64, rope_parameters: {rope_type: linear, factor: 2.0}, rms_norm_eps: 1e-4}"
    nested = {"rope_type": "linear", "factor": 2.0}
    expected = {"hidden_size": 64, "rope_parameters": nested, "rms_norm_eps": 1e-4}
    assert parse_mapping("--config_overrides", text) == expected
    assert parse_mapping("--config_overrides", '{"a": "\\ud83d\\ude00", "b": 1e-4}') == {"a": "\U0001f600", "b": 1e-4}
    assert parse_mapping("--config_overrides", "{}") == {}
    for wrong in ("{a: 1, a: 2}", "{a: [1}", "{a=1}", "{a:1}", "{a}", '{"a": }', "{a: 1"):
        with pytest.raises(ValueError, match="`--config_overrides`"):
            parse_mapping("--config_overrides", wrong)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("hidden_size: 64", {"hidden_size": 64}),
        (
            "hidden_size: 64, rope: {factor: 2.0}, layers: [a, b]",
            {"hidden_size": 64, "rope": {"factor": 2.0}, "layers": ["a", "b"]},
        ),
        ("hidden_size: 64\nrope:\n  factor: 2.0\n", {"hidden_size": 64, "rope": {"factor": 2.0}}),
        ("{hidden_size: null, layers: ~}", {"hidden_size": None, "layers": None}),
    ],
)
def test_lines_of_a_yaml_file_are_a_mapping_on_the_command_line(text, expected):
    """The help says that YAML is read: with bare keys, with or without braces and line ends, null values included."""
    assert parse_mapping("--config_overrides", text) == expected


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
HOSTILE = {  # name -> YAML, and what the message says
    "bomb": (BOMB, "line 2 repeats a value by its name"),
    "loop": ("a: &a [*a]", "line 1 repeats a value by its name"),
    "deep brackets": ("config_overrides: {a: " + "[" * 40_000, "nested deeper than 50 levels"),
    "deep, closed": ("config_overrides: {a: " + "[" * 900 + "]" * 900 + "}", "nested deeper than 50 levels"),
    "deep lists": ("- " * 20_000, "nested deeper than 50 levels"),
    "deep indents": ("".join(" " * i + "a:\n" for i in range(300)), "nested deeper than 50 levels"),
    "long": ("run_name: " + "x" * 10**7, "more than 1,048,576 characters"),
    "many keys": ("".join(f"{i}:\n" for i in range(9_000)), "unknown key `0`"),
    "many keys, one twice": ("".join(f"{i}:\n" for i in range(9_000)) + "8999:\n", "`8999` appears twice"),
    "object": ("a: !!python/object/apply:os.system [ls]", "tags are not read"),
    "empty number": ("a: !!int ''", "tags are not read"),
    "list as a key": ("? [a]\n: b", "unhashable key"),
    "date": ("a: 2001-99-99", "month must be in 1..12"),
}


@pytest.mark.parametrize("text, message", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_soon(tmp_path, capsys, text, message):
    """Aliases that expand to gigabytes, thousands of levels, megabytes of text, tags that build objects."""
    (tmp_path / "run.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(SystemExit) as stopped, report_errors():
        parse_args([ModelArguments, TaskArguments], ["--config", str(tmp_path / "run.yaml"), *TASK])
    assert stopped.value.code == 2 and time.process_time() - start < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.yaml`" in line.replace("run.yaml ", "run.yaml` ") and message in line and len(line) < 500


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": ' + "[" * 40_000, "nested deeper than 50 levels"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested deeper than 50 levels"),
        ("{a: " + "[" * 40_000, "nested deeper than 50 levels"),
        ("a=" + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("{" + ",".join(f'"{i}": 1' for i in range(6_000)) + ', "5999": 1}', "`5999` appears twice"),
        ("{a: &a [x], b: *a}", "repeats a value by its name"),
        ("a={b: &a [x], c: *a}", "repeats a value by its name"),
        ("a=" + "[" * 50_000, "close its bracket"),
        ('=["a' * 50_000, "close its bracket"),
        ("a=" + "x" * 10**7, "more than 1,048,576 characters"),
    ],
)
def test_a_hostile_mapping_is_refused_within_a_second(text, message):
    """As JSON, in braces, and as pairs."""
    start = time.process_time()
    with pytest.raises(ValueError, match=f"`--config_overrides`.*{message}"):
        parse_mapping("--config_overrides", text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("text", ["[", "a=[", '=["a', "='", ' "\\\\', "={ ", "a,", "= "])
def test_pairs_are_split_in_time_in_proportion_to_their_length(text):
    """Ten times the text takes far less than the hundred times that copying what was read would take."""
    times = []
    for size in (100_000, 1_000_000):
        start = time.process_time()
        with contextlib.suppress(ValueError):
            split_pairs("--x", text * (size // len(text)))
        times.append(time.process_time() - start)
    assert times[1] < 40 * max(times[0], 0.05)


def test_a_text_may_look_like_a_name_of_yaml():
    """An undefined alias or a tag is text, as other invalid YAML is; 12:30 is no number in base 60."""
    assert parse_mapping("--x", "a=*.txt,b=!yes,c=12:30,d=1:2.5") == {
        "a": "*.txt",
        "b": "!yes",
        "c": "12:30",
        "d": "1:2.5",
    }


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b'{"a": \xff}', b"{", b"[]", b"null"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    """Cut, filled with zeros, with bytes that are no text, or another value than an object."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"`{tmp_path}/a.json`"):
        read_json_file(tmp_path / "a.json")
