"""A YAML file is a saved command line; an error in either is reported in one line, and no token is kept."""

import io
import logging
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import AutoConfig, TrainingArguments

from hf_llm.arguments import (
    DataArguments,
    EvalArguments,
    EvalTaskArguments,
    GenerateArguments,
    ModelArguments,
    PreparationArguments,
    PretrainArguments,
    TaskArguments,
    TextArguments,
)
from hf_llm.command_line import parse_args, parse_tasks
from hf_llm.messages import report_errors, set_last_line
from hf_llm.training.record import read_run, write_settings

CONFIGS = Path(__file__).parent.parent / "recipes" / "configs"
PRETRAIN = [ModelArguments, TextArguments, PretrainArguments, TrainingArguments]
TOKEN = "hf_notarealtokenbutkeptout"


@pytest.fixture(autouse=True)
def _untouched():
    """Restore the environment and the log handlers, which parsing sets."""
    package = logging.getLogger("hf_llm")
    handlers, level = package.handlers, package.level
    with mock.patch.dict(os.environ):
        os.environ.pop("HF_TOKEN", None)
        yield
    package.handlers, package.level = handlers, level
    package.setLevel(level)


@pytest.fixture
def parse(tmp_path):
    """Parse a command line with an output folder; `config` is the text of the YAML file of `--config`."""

    def parse(*argv, config=None, classes=PRETRAIN, **options):
        if config is not None:
            (tmp_path / "run.yaml").write_text(config)
            argv = ("--config", str(tmp_path / "run.yaml"), *argv)
        if TrainingArguments in classes:
            argv = ("--output_dir", str(tmp_path / "out"), *argv)
        return parse_args(classes, list(argv), **options)

    return parse


@pytest.fixture
def refusal(parse, capsys):
    """Return the line on stderr with which a command line is refused with exit status 2."""

    def refusal(*argv, **options):
        with pytest.raises(SystemExit) as stopped, report_errors():
            parse(*argv, **options)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return refusal


def test_a_yaml_file_is_a_saved_command_line(parse):
    """Values get the types of their fields: 2e-5, which YAML reads as text, is a number; lists and null work."""
    config = """
learning_rate: 2e-5
max_length: 128
packing: false
train_file: [a.txt, 'b *.txt']
save_strategy: "no"
validation_file: null
lr_scheduler_kwargs: {min_lr_rate: 0.1}
"""
    _, data, _, args = parse("--lr_scheduler_type", "cosine_with_min_lr", config=config)
    assert (
        args.learning_rate == 2e-5 and args.save_strategy == "no" and args.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    )
    assert (data.max_length, data.packing, data.validation_file) == (128, False, None)
    assert data.train_file == ["a.txt", "b *.txt"]


@pytest.mark.parametrize(
    "argv, config",
    [
        ([], None),
        (["--learning_rate", "1e-4", "--weight_decay", "5e-324", "--adam_beta1", "0.30000000000000004"], None),
        (["--packing", "false", "--max_length=1024", "--train_file", "a b.txt", "c*.txt", "--bf16", "true"], None),
        (["--eval_strategy", "no"], "eval_strategy: epoch\neval_steps: 10\nmetric_for_best_model: loss"),
        (["--tokenizer_name", "folder"], "vocab_size: 300"),
        (["--config_overrides", "eps=1e-4,tie=true,name='1e-4',rope={a: [1, null]}"], "config_overrides: {b: no}"),
        (["--accelerator_config", '{"even_batches": true}'], None),
        *(
            ([f"--run_name={text}"], None)
            for text in (
                "1e-4",
                "true",
                "null",
                "",
                "12:30",
                "2024-07-26",
                " a ",
                "a\nb\n",
                "# a",
                "\\n",
                "é\x85",
                "🐕",
            )
        ),
    ],
)
def test_the_settings_of_a_run_are_read_back(parse, argv, config, tmp_path):
    """The flags that are not defaults, in a YAML file, come to the same values; a reader gets numbers as numbers."""
    settings = parse(*argv, config=config)[-1].settings
    write_settings(tmp_path, settings)
    again = parse(config=(tmp_path / "run.yaml").read_text())[-1].settings
    assert repr(again) == repr(settings) == repr(read_run(tmp_path).settings)


def test_the_settings_of_a_run_have_what_was_chosen_and_no_secrets(parse, tmp_path, caplog):
    """A precision chosen by the hardware is written. What publishes the run, resumes it or has no effect is not."""
    config = f"eval_delay: 2\neval_strategy: epoch\nhub_token: {TOKEN}\nresume_from_checkpoint: true\npush_to_hub: true"
    *_, args = parse("--eval_strategy", "no", config=config)
    write_settings(tmp_path, args.settings | {"train_file": [f"https://me:secret@host/a?token={TOKEN}"]})
    settings, text = read_run(tmp_path).settings, (tmp_path / "run.yaml").read_text()
    assert settings.keys() == {"output_dir", "bf16", "max_length", "eval_strategy", "save_strategy", "train_file"}
    assert settings["train_file"] == ["https://host/a"] and TOKEN not in text and "secret@" not in text
    assert "# Not complete, without secrets and names that are not UTF-8: give again train_file\n" in text
    assert "give them again to repeat the run" in caplog.text


def test_flags_override_the_file(parse):
    """A list on the command line replaces the one in the file."""
    config = "max_length: 128\nlearning_rate: 1e-3\ntrain_file: [a.txt, b.txt]\npacking: false\n"
    _, data, _, args = parse("--max_length=64", "--train_file", "c.txt", "--packing", config=config)
    assert (data.max_length, data.train_file, data.packing, args.learning_rate) == (64, ["c.txt"], True, 1e-3)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--max_step", "3"], "unknown argument `--max_step`; the nearest is `--max_steps`"),
        (["--warmup", "2"], "unknown argument `--warmup`; the nearest is `--warmup_steps`"),
        (["--block_size", "2"], "unknown argument `--block_size`; the nearest is `--max_length`"),
        (["--max-lenght=3"], "unknown argument `--max-lenght`; the nearest is `--max_length`"),
        (["--prompt", "--x"], "unknown argument `--prompt`"),
        (["--run_name", "--x"], "`--x`; write a value that begins with - as `--name=-value`"),
        (["stray"], "unknown argument `stray`; write a value after its flag, see `--help`"),
        (["--optim", "sgdd"], "argument --optim: invalid choice: 'sgdd'"),
        (["--lora_r", "8"], "unknown argument `--lora_r`: it is an argument of recipes/finetune.py"),
        (
            ["--overwrite_output_dir"],
            "`--overwrite_output_dir`: name another `--output_dir`, or resume with `--resume_",
        ),
        (["--warmup_ratio", "0.1"], "`--warmup_ratio`: give it as `--warmup_steps`, where a number below 1 is"),
        (["--lora_rank", "8"], "`--lora_rank`: `--lora_r` is an argument of recipes/finetune.py"),
        (["--use_peft"], "`--use_peft`: `--lora_r 16` of recipes/finetune.py"),
        (["--assistant_only_loss", "true"], "`--assistant_only_loss`: leave it out: only completions and the assist"),
        (["--load_in_8bit"], "`--load_in_8bit`: `--load_in_4bit true --lora_r 16` of recipes/finetune.py"),
        (["--torch_dtype", "bfloat16"], "`--torch_dtype`: training takes `--bf16`"),
        (["--zero_stage", "2"], "`--zero_stage`: give `--deepspeed ds_configs/zero2.json`"),
        (["--eos_token", "x"], "unknown argument `--eos_token`; write a value"),
        (["--evaluation_strategy", "no"], "`--evaluation_strategy`; the nearest is `--eval_strategy`"),
        (["--max_length", "many"], "argument --max_length: invalid int value: 'many'"),
        (["--lr_scheduler_type", "cosin"], "invalid choice: 'cosin'"),
        (["--packing", "perhaps"], "argument --packing: "),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(refusal, argv, message):
    """Abbreviations too: argparse would let `--max_step` set `max_steps`."""
    assert message in refusal(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["--hub_tokne=SECRET"],
        ["--hub_tokne", "SECRET"],
        ["--hub_tok=SECRET"],
        ["--HUB_TOKEN=SECRET"],
        ["-hub_token=SECRET"],
        ["-hub_token", "SECRET"],
        ["hub_token=SECRET"],
        ["\u2014hub_token=SECRET"],
        ["--hub_token SECRET"],
        ["--hub_token:SECRET"],
        ["--hub_token:", "SECRET"],
        ["--hub_token", "first", "SECRET"],
    ],
)
def test_a_mistyped_flag_is_named_without_its_value(refusal, argv):
    """The value may be a token; the message names the flag that was meant."""
    line = refusal(*argv)
    assert "SECRET" not in line and "`--hub_token`" in line


@pytest.mark.parametrize(
    "argv",
    [["--no_such_flag=https://me:SECRET@host?key=SECRET"], ["--max_length", "https://me:SECRET@host/?key=SECRET"]],
)
def test_an_address_is_shown_without_password_and_query(refusal, argv):
    """In the value of an unknown flag or an invalid value."""
    assert "SECRET" not in refusal(*argv)


@pytest.mark.parametrize(
    "config",
    [
        "hub_token: SECRET: x",
        "hub_token: 'SECRET",
        "hub_token: *SECRET",
        "hub_token: !SECRET x",
        "hub_token: @SECRET",
        "hub_token = SECRET",
        "{hub_token: SECRET",
        "hub_token: [x, SECRET]",
        "hub_tokne: SECRET",
        "hub_tokne=SECRET: 1",
        "config_overrides: api_key:SECRET",
    ],
)
def test_a_broken_file_is_reported_without_its_lines(refusal, config):
    """PyYAML's own message would quote the line, which may hold a token."""
    line = refusal(config=config)
    assert "SECRET" not in line and "run.yaml" in line.replace("`--hub_token` takes one value", "run.yaml")


@pytest.mark.parametrize(
    "config, message",
    [
        ("learning_rte: 1", "unknown key `learning_rte`; the nearest is `learning_rate`"),
        ("config: other.yaml", "unknown key `config`"),
        ("max_length: many", "argument --max_length: invalid int value: 'many'"),
        ("packing: perhaps", "argument --packing: "),
        ("save_strategy: sometimes", "argument --save_strategy: invalid choice: 'sometimes'"),
        ("- a list", "write lines `key: value`"),
        ("a: [", "cannot be read"),
    ],
)
def test_an_error_in_a_file_is_reported_with_the_file(refusal, config, message):
    """And with the key."""
    line = refusal(config=config)
    assert "run.yaml" in line and message in line


def test_a_missing_file_is_refused(refusal):
    """With the argument and the path."""
    assert "`--config` nowhere.yaml cannot be read" in refusal("--config", "nowhere.yaml")


def test_a_required_flag_may_be_in_the_file_or_on_the_command_line(parse, refusal):
    """It is an error only if it is in neither."""
    generate = {"classes": [GenerateArguments]}
    (args,) = parse("--model_name_or_path", "folder", config="num_beams: 3", **generate)
    assert (args.model_name_or_path, args.num_beams) == ("folder", 3)
    (args,) = parse("--num_beams", "4", config="model_name_or_path: folder", **generate)
    assert (args.model_name_or_path, args.num_beams) == ("folder", 4)
    assert "required: --model_name_or_path" in refusal("--num_beams", "4", **generate)


@pytest.mark.parametrize(
    "argv, config, message",
    [
        (["--fim_rate=1"], None, "`--fim_rate` has no effect without `--objective fim`: give both or neither"),
        ([], "mlm_probability: 0.3", "no effect without `--objective masked`"),
        (["--tokenizer_name", "x", "--vocab_size", "9"], None, "`--vocab_size` has no effect with `--tokenizer_name`"),
        (
            [],
            "validation_file: a\nvalidation_fraction: 0.1",
            "no effect with `--validation_file`: leave one of them out",
        ),
    ],
)
def test_a_flag_without_effect_is_refused(refusal, argv, config, message):
    """Ignored silently, it would give another result than the user expects."""
    assert message in refusal(*argv, config=config)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--ray_address", "ray://head:1"], "no effect without `--runner ray`"),
        (["--passage_min_chars", "9"], "without `--passage_deduplication lines`"),
        (["--jaccard_threshold=1", "--no_near_deduplication"], "`--near_deduplication`"),
        (["--pseudonym_key_file", "key"], "without `--anonymize pseudonyms`"),
    ],
)
def test_settings_of_a_step_that_is_off_are_refused(refusal, argv, message):
    """With only `--ray_address` the run would stay on this machine, with only a key it would use placeholders."""
    required = ["--files", "x", "--output_dir", "x"]
    assert message in refusal(*required, *argv, classes=[PreparationArguments])


@pytest.mark.parametrize("flag", ["--jaccard_threshold", "--language_threshold"])
@pytest.mark.parametrize("value", ["0", "1.5", "nan"])
def test_thresholds_out_of_bounds_are_refused(refusal, flag, value):
    """Those of the preparation are above 0 and at most 1."""
    argv = ["--files", "x", "--output_dir", "x", "--languages", "en", flag, value]
    message = f"`{flag}` is {float(value)}: give a number above 0 and at most 1"
    assert message in refusal(*argv, classes=[PreparationArguments])


def test_a_temperature_without_sampling_is_refused(refusal):
    """The likeliest token is the same at any temperature."""
    argv = ["--model_name_or_path", "x", "--temperature", "2"]
    assert "no effect without `--do_sample`" in refusal(*argv, classes=[GenerateArguments])


@pytest.mark.parametrize(
    "argv, config",
    [
        (["--objective", "fim", "--fim_rate", "1"], None),
        (["--fim_rate", "1"], "objective: fim"),
        (["--objective", "causal"], "objective: fim\nfim_rate: 0.9"),
        (["--tokenizer_name", "x"], "vocab_size: 300"),
        (["--validation_file", "x"], "validation_fraction: 0.1"),
    ],
)
def test_a_file_may_contain_what_the_command_line_makes_ineffective(parse, argv, config):
    """One of its settings is overridden, and the others need not be removed from it."""
    assert parse(*argv, config=config)


def test_the_token_goes_to_the_environment_and_nowhere_else(parse):
    """Neither `training_args.bin` nor any other dump of the arguments contains it."""
    *_, args = parse("--hub_token", TOKEN)
    assert os.environ["HF_TOKEN"] == TOKEN
    saved = io.BytesIO()
    torch.save(args, saved)
    assert TOKEN.encode() not in saved.getvalue()
    assert TOKEN not in repr(vars(args)) and TOKEN not in args.to_json_string()


@pytest.mark.parametrize(
    "argv, hardware, expected",
    [([], True, True), ([], False, False), (["--bf16", "false"], True, False), (["--bf16"], False, True)],
)
def test_bfloat16_is_used_if_the_hardware_supports_it_unless_the_flag_is_given(
    parse, monkeypatch, argv, hardware, expected
):
    """The flag takes precedence either way."""
    monkeypatch.setattr("hf_llm.training.training_arguments.has_bfloat16", lambda on_cpu: hardware)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    *_, args = parse(*argv)
    assert args.bf16 is expected


@pytest.mark.parametrize(
    "argv, config, expected",
    [
        ([], None, 77),
        (["--max_length", "5"], None, 5),
        ([], "vocab_size: 300", TextArguments.max_length),
        (["--model_name_or_path", "/no/folder"], None, TextArguments.max_length),
    ],
    ids=["bare", "flag", "config", "model"],
)
def test_the_default_file_describes_a_new_model_only(parse, tmp_path, argv, config, expected):
    """It is read without `--config` and `--model_name_or_path`, and flags override it."""
    (tmp_path / "default.yaml").write_text("max_length: 77\n")
    _, data, *_ = parse(*argv, config=config, default_config=str(tmp_path / "default.yaml"))
    assert data.max_length == expected


def test_epochs_on_the_command_line_replace_the_steps_of_a_file(parse, tmp_path):
    """`max_steps` takes precedence in the Trainer, and on the command line it still does."""
    (tmp_path / "run.yaml").write_text("max_steps: 7\n")
    config = ["--config", str(tmp_path / "run.yaml"), "--num_train_epochs", "2"]
    *_, epochs = parse(*config)
    *_, steps = parse(*config, "--max_steps", "9")
    assert (epochs.max_steps, epochs.num_train_epochs, steps.max_steps) == (-1, 2, 9)


def test_an_unquoted_no_in_a_yaml_file_is_a_choice(parse, tmp_path):
    """YAML reads it as false."""
    (tmp_path / "run.yaml").write_text("save_strategy: no\n")
    *_, args = parse("--config", str(tmp_path / "run.yaml"))
    assert args.save_strategy == "no"


def test_a_list_given_twice_is_refused(parse, capsys):
    """The first one would be ignored."""
    with pytest.raises(SystemExit):
        parse("--train_file", "a.txt", "--train_file", "b.txt")
    assert "`--train_file` is given twice: put all its values after one" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("pretrain*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_parse(path, monkeypatch):
    """Every key is known, every value has its type, and the DeepSpeed JSON file exists."""

    def without_launcher(values, script):
        assert values["deepspeed"] is None or (CONFIGS.parent.parent / values["deepspeed"]).is_file()
        values |= {"deepspeed": None, "use_cpu": True}

    monkeypatch.setattr("hf_llm.training.training_arguments.prepare_deepspeed", without_launcher)
    model, data, _, args = parse_args(PRETRAIN, ["--config", str(path)])
    assert args.output_dir == f"outputs/{path.stem}"
    assert (
        f"max_length: {data.max_length}" in path.read_text() and f"model_type: {model.model_type}" in path.read_text()
    )


@pytest.mark.parametrize("classes", [PRETRAIN, [GenerateArguments]], ids=["pretrain", "generate"])
def test_help_shows_every_flag(classes, capsys):
    """With exit status 0."""
    with pytest.raises(SystemExit) as stopped:
        parse_args(classes, ["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(f"--{name}" in shown for cls in classes for name in cls.__dataclass_fields__ if name[0] != "_")


def test_help_begins_with_the_commands_and_has_the_trainers_flags_last(capsys):
    """The more than hundred `TrainingArguments` would hide the others."""
    with pytest.raises(SystemExit):
        parse_args(PRETRAIN, ["--help"], description="Train.\n\nrecipe one\nrecipe two")
    shown = capsys.readouterr().out
    assert shown.splitlines()[2:6] == ["Train.", "", "recipe one", "recipe two"]
    headings = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == ["model:", "data:", "pretraining:", "the Trainer (transformers.TrainingArguments):"]


def test_flags_that_describe_another_model_replace_the_one_of_the_default_config(tmp_path, monkeypatch):
    """`--num_train_epochs` replaces its `max_steps`, `--model_type` its model; `--eval_steps` sets the strategy."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default.yaml").write_text(
        "config_overrides: hidden_size=8\nmax_steps: 3\ninitializer_range: 0.5\neval_steps: 7\nsave_strategy: 'no'\n"
    )
    (tmp_path / "steps.yaml").write_text("max_steps: 3\n")
    flags = ["--model_type", "gpt2", "--num_train_epochs", "2", "--save_steps", "5", "--output_dir", "out"]
    model_args, args = parse_args([ModelArguments, TrainingArguments], flags, default_config="default.yaml")
    assert (model_args.config_overrides, model_args.initializer_range, args.max_steps) == (None, None, -1)
    assert (args.save_strategy, args.save_steps, args.eval_strategy, args.eval_steps) == ("steps", 5, "steps", 7)
    streaming = [
        "--streaming",
        "true",
        "--output_dir",
        "out",
    ]  # of other text, for which the number of steps is unknown
    _, args = parse_args([TextArguments, TrainingArguments], streaming, default_config="steps.yaml")
    assert args.max_steps == -1
    _, args = parse_args([TextArguments, TrainingArguments], [*streaming[:1], "false"], default_config="steps.yaml")
    assert args.max_steps == 3


def test_a_mapping_on_the_command_line_is_added_to_that_of_the_file(parse, tmp_path, caplog):
    """Key by key, for the default file too: one layer less does not bring the architecture's full width."""
    caplog.set_level("INFO", "hf_llm")
    default = tmp_path / "default.yaml"
    default.write_text("config_overrides: hidden_size=8,num_hidden_layers=2\ninitializer_range: 0.5\n")
    flags = ["--config_overrides", "num_hidden_layers=1"]
    merged = {"hidden_size": 8, "num_hidden_layers": 1}
    model_args, *_ = parse(*flags, default_config=str(default))
    assert (model_args.config_overrides, model_args.initializer_range) == (merged, 0.5)
    line = "`--config_overrides`, with the settings of the file: hidden_size=8,num_hidden_layers=1"
    assert caplog.messages.count(line) == 1
    assert parse(*flags, config=default.read_text())[0].config_overrides == merged
    (of_another_model, *_) = parse(
        "--model_type", "gpt2", "--config_overrides", "n_layer=1", config=default.read_text()
    )
    assert of_another_model.config_overrides == {"n_layer": 1}


def test_options_of_a_task_are_added_to_those_of_its_file(parse):
    """Unless the command line names another task."""
    config = "task: translation\ntask_options: source=en,target=de\n"
    options = ["--task_options", "target=fr"]
    (args,) = parse(*options, config=config, classes=[TaskArguments])
    assert args.task_options == {"source": "en", "target": "fr"}
    (args,) = parse(
        "--task", "summarization", "--task_options", "max_new_tokens=9", config=config, classes=[TaskArguments]
    )
    assert args.task_options == {"max_new_tokens": "9"}


@pytest.mark.parametrize(
    "argv, shown, hidden",
    [
        ([], ["(default: 77)", "(default: default.yaml)", "(default: 5)"], []),
        (["--config", "other.yaml"], ["(default: 78)"], ["default.yaml)", "(default: 77)", "(default: 5)"]),
        (["--model_name_or_path", "m"], [f"(default: {TextArguments.max_length})"], ["(default: 77)", "default.yaml)"]),
        (["--num_train_epochs", "2"], ["(default: 77)"], ["(default: 5)"]),
    ],
)
def test_the_help_shows_the_defaults_that_the_command_would_have(argv, shown, hidden, tmp_path, monkeypatch, capsys):
    """Those of the YAML file that it reads, if any; a required flag need not be given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default.yaml").write_text("max_length: 77\nmax_steps: 5\n")
    (tmp_path / "other.yaml").write_text("max_length: 78\n")
    with pytest.raises(SystemExit):
        parse_args(PRETRAIN, [*argv, "--help"], default_config=str(tmp_path / "default.yaml"))
    text = " ".join(capsys.readouterr().out.split())
    assert all(default in text for default in shown) and not any(default in text for default in hidden)


def test_the_tasks_of_an_evaluation_come_from_the_command_line_that_is_handed_in(tmp_path, monkeypatch):
    """Its flags override the task's YAML file, whatever `sys.argv` says: a notebook or a test has another one."""
    file = tmp_path / "headlines.yaml"
    file.write_text("task: summarization\nmax_length: 64\nseed: 7\nnum_fewshot: 1\n")
    monkeypatch.setattr(sys, "argv", ["notebook", "--max_length", "999", "--num_fewshot", "5"])
    argv = ["--model_name_or_path", "m", "--task", str(file), "bias", "--max_length", "128"]
    groups = parse_args([EvalTaskArguments, DataArguments, EvalArguments], argv)
    tasks = parse_tasks(argv, *groups)
    task_args, data_args, args = tasks["headlines"]
    assert (task_args.task, task_args.num_fewshot, data_args.max_length, args.seed) == ("summarization", 1, 128, 7)
    assert (tasks["bias"][0].task, tasks["bias"][1].max_length) == ("bias", 128)


def test_what_is_trained_is_no_flag_of_an_evaluation(tmp_path, capsys):
    """It is said where it belongs; the YAML file of a training may hold it."""
    groups = [EvalTaskArguments, DataArguments, EvalArguments]
    with pytest.raises(SystemExit):
        parse_args(groups, ["--model_name_or_path", "m", "--task", "chat", "--train_on", "last"])
    assert "`--train_on`: it is an argument of recipes/finetune.py" in capsys.readouterr().err
    (tmp_path / "tuned.yaml").write_text("task: chat\ntrain_on: last\n")
    argv = ["--model_name_or_path", "m", "--task", str(tmp_path / "tuned.yaml")]
    assert parse_tasks(argv, *parse_args(groups, argv))["tuned"][0].task == "chat"


def test_the_nearest_file_is_named_for_one_that_is_not_there(refusal, monkeypatch):
    """Of those beside the recipe, from whatever folder it is started."""
    monkeypatch.setattr("sys.argv", [str(CONFIGS.parent / "finetune.py")])
    for name in ("chat.yaml", "elsewhere/chats.yaml"):
        assert f"{name}: there is no such file; the nearest is {CONFIGS / 'chat.yaml'}" in refusal("--config", name)


def test_two_tasks_of_one_name_are_refused():
    """Their results would go to the same file."""
    argv = ["--model_name_or_path", "m", "--task", "bias", "other/bias.yaml"]
    with pytest.raises(ValueError, match="`--task` has `bias` twice"):
        parse_tasks(argv, *parse_args([EvalTaskArguments, DataArguments, EvalArguments], argv))


def test_help_says_what_the_recipes_do_and_not_what_the_trainer_would(parse, capsys):
    """Flags that turn something off do not repeat what it does; defaults and values are those of the recipes."""
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "The same as --packing false." in text and text.count("Put several documents or examples into one row") == 1
    assert "Train in bfloat16 (mixed precision). Default: if the hardware supports it." in text
    assert "`true` resumes from the newest complete checkpoint in --output_dir" in text
    assert "Whether a new repository is private. Default: true." in text and "will be public" not in text


def test_without_a_tracker_there_is_none(parse):
    """argparse gives None for a list that is not on the command line, which the Trainer refuses."""
    assert parse()[-1].report_to == []


def test_a_setting_at_its_default_needs_no_other_flag(parse):
    """`--load_best_model_at_end false` has the effect that it asks for."""
    assert not parse("--load_best_model_at_end", "false", "--hub_always_push", "false")[-1].load_best_model_at_end


def test_rows_are_as_long_as_a_loaded_model_allows_unless_a_length_is_given(parse, tmp_path):
    """A default that a model with few positions, such as BERT, cannot take would stop every first try of it."""
    AutoConfig.for_model("llama", max_position_embeddings=64).save_pretrained(tmp_path / "model")
    model = ("--model_name_or_path", str(tmp_path / "model"))
    assert parse(*model)[1].max_length == 64
    assert parse(*model, "--max_length", "100")[1].max_length == 100
    assert parse(*model, config="max_length: 100")[1].max_length == 100
    assert parse()[1].max_length == 1024


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("--json", True),
        ("--json true", True),
        ("--json=yes --max_length x", True),
        ("--json --max_length x", True),
        ("--json false", False),
        ("--json true --json=False", False),
        ("--max_length x", False),
    ],
)
def test_an_error_in_the_flags_is_json_too_where_it_is_asked_for(words, asked, capsys):
    """The last line of stdout, though the command line cannot be parsed."""
    with pytest.raises(SystemExit):
        parse_args([GenerateArguments], [*words.split(), "--max_lenght=5"])
    out, err = capsys.readouterr()
    assert err.startswith("error: unknown argument") and ('{"error": "unknown argument' in out) == asked
    set_last_line(is_json=False)


def test_a_config_of_the_evaluation_overrides_the_file_of_a_task_as_flags_do(parse, tmp_path):
    """Here the number of rows, which the file of the task does not limit."""
    classes = [EvalTaskArguments, DataArguments, EvalArguments]
    task = str(CONFIGS / "translation.yaml")
    (tmp_path / "eval.yaml").write_text(f"max_eval_samples: 5\nmodel_name_or_path: a\ntask: [{task}]\n")
    argv = ["--config", str(tmp_path / "eval.yaml")]
    _, data_args, _ = parse_tasks(argv, *parse_args(classes, argv))["translation"]
    assert data_args.max_eval_samples == 5


def test_a_recipe_runs_without_any_flag():
    """The first command of the README has none: all settings are those of the recipe's own YAML file."""
    config = Path(__file__).parent.parent / "recipes" / "configs" / "pretrain_tiny.yaml"
    model_args, *_, args = parse_args(PRETRAIN, [], default_config=str(config))
    assert (Path(args.output_dir).name, model_args.model_type) == ("pretrain_tiny", "llama")
