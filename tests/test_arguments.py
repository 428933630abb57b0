"""The dataclasses of arguments: their bounds hold however they are made."""

import dataclasses

import pytest

from hf_llm import arguments
from hf_llm.arguments import (
    Arguments,
    DataArguments,
    EvalArguments,
    FinetuneArguments,
    PreparationArguments,
    PretrainArguments,
    TaskArguments,
    parse_duration,
)
from hf_llm.metrics import METRICS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataArguments(max_length=1), "`--max_length` is 1: give at least 2"),
        (lambda: PretrainArguments(fim_rate=1.5), "`--fim_rate` is 1.5: give at least 0 and at most 1"),
        (
            lambda: PreparationArguments(files=["a.txt"], output_dir="out", jaccard_threshold=float("nan")),
            "`--jaccard_threshold` is nan: give a number above 0 and at most 1",
        ),
        (
            lambda: dataclasses.replace(EvalArguments(model_name_or_path="m"), batch_size=0),
            "`--batch_size` is 0: give at least 1",
        ),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_in_python_too(make, message):
    """As on a command line: the bounds are those in the field's metadata."""
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_every_group_of_flags_has_its_bounds_checked():
    """No dataclass of flags is without the base class that checks them, and each flag has a help text."""
    groups = [value for value in vars(arguments).values() if dataclasses.is_dataclass(value)]
    assert groups and all(issubclass(group, Arguments) for group in groups)
    assert [
        option.name
        for group in groups
        for option in dataclasses.fields(group)
        if option.init and not option.metadata["help"]
    ] == []


def test_an_unknown_encoding_is_refused():
    """One that Python does not know, and one that is not of text."""
    for name in ("utf-9", "rot13"):
        with pytest.raises(ValueError, match=f"`--encoding` {name} is unknown: give a codec of Python"):
            arguments.ReadingArguments(encoding=name)
    assert arguments.DataArguments(encoding="cp1252").reading() == arguments.ReadingArguments(encoding="cp1252")


@pytest.mark.parametrize(
    "given, validation",
    [
        ({}, 20),
        ({"train_file": ["a.txt"]}, 20),
        ({"max_eval_samples": 7}, 7),
        ({"validation_file": ["b.txt"]}, None),
        ({"dataset_name": "me/data"}, None),
    ],
)
def test_a_short_try_is_evaluated_on_as_few_rows(given, validation):
    """Unless the validation rows were chosen: 20 rows to train on would else be evaluated on hundreds."""
    assert DataArguments(max_train_samples=20, **given).limits() == {"train": 20, "validation": validation}


def test_the_choices_of_metric_are_the_metrics_that_can_be_loaded():
    """The flag lists them itself: `--help` does not wait for the metrics."""
    (metric,) = (field for field in dataclasses.fields(TaskArguments) if field.name == "metric")
    assert metric.metadata["choices"] == [*METRICS]


def test_a_duration_has_units_or_is_in_seconds():
    """As it is written on a command line or in a YAML file; what is no duration above 0 is refused with examples."""
    texts = {"90": 90, "90s": 90, "10m": 600, "2h": 7200, "1h30m": 5400, "0.5m": 30, "1m05s": 65, "1d": 86400}
    assert {text: parse_duration(text) for text in texts} == texts
    for text in ("", "0", "0s", "-5", "10x", "m", "1h 30", "nan", "inf", "1e3", "10m!"):
        with pytest.raises(ValueError, match=r"`--time_budget` .* is not a duration: give e.g. 90s, 10m, 2h or 1h30m"):
            FinetuneArguments(time_budget=text)
