"""What a run prints at its end is complete and readable."""

import json
import os
import sys

import pytest
from tiny import new_tokenizer, new_trainer

from hf_llm.files import write_json_lines
from hf_llm.publishing.reporting import (
    expectation,
    print_completions,
    print_predictions,
    report_pretraining,
    wrap_and_indent,
)

FIGURES = {
    "train_tokens_in": 1234567,
    "train_tokens_packed": 1234567,
    "train_tokens_dropped": 0,
    "train_packing_efficiency": 0.9987,
    "train_tokens_per_second": 12345.6,
    "train_mfu": 0.4219,
    "eval_loss": 3.14159,
    "eval_perplexity": 23.1406,
    "eval_bits_per_byte": 1.2345,
    "eval_zlib_bits_per_byte": 2.5,
}


def test_a_run_ends_with_its_figures_a_sample_and_the_folder(tmp_path, capsys):
    """Dropped tokens, all scores, and the prompt with its completion are printed."""
    trainer = new_trainer(tmp_path, new_tokenizer())
    report_pretraining(trainer, FIGURES, {"A sample": "Document 1 counts " + "0 " * 60})
    shown = capsys.readouterr().out
    sample = shown.partition("\n\nA sample:\n\n")[2].partition("\n\n")[0].splitlines()
    assert sample[0].startswith("  Document 1 counts 0") and max(map(len, sample)) <= 102
    for part in ("1,234,567, 0", "99.87%", "12,346", "0.4219", "3.142", "23.14", "1.234", "2.5"):
        assert part in shown
    assert shown.rstrip().endswith(f"Model and results: {tmp_path}")


def test_the_table_has_the_share_and_loss_of_each_source(tmp_path, capsys):
    """A classifier has no loss of each source."""
    figures = {"train_web_share": 0.7, "eval_web_loss": 3.21, "train_code_share": 0.3}
    report_pretraining(new_trainer(tmp_path, new_tokenizer()), FIGURES | figures, {})
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert {line[0]: line[-1].strip() for line in lines if ", share" in line[0]} == {
        "web, share and loss": "70.00%, 3.21",
        "code, share": "30.00%",
    }


def test_a_small_new_model_is_not_expected_to_write_sense(tmp_path, capsys):
    """The run says what to expect of its size; not of a loaded model, nor of one that is large and has read much."""
    trainer = new_trainer(tmp_path, new_tokenizer())
    trainer.state.num_input_tokens_seen = 5_000
    report_pretraining(trainer, FIGURES, {})
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    line = f"What to expect of {parameters:,} parameters after 5,000 tokens: phrases of the training text"
    assert line in capsys.readouterr().out
    trainer.model.config.name_or_path = trainer.model.name_or_path = "loaded"
    report_pretraining(trainer, FIGURES, {})
    assert "What to expect" not in capsys.readouterr().out
    assert expectation(124_000_000, 10**6) and expectation(10**6, 10**9)
    assert expectation(124_000_000, 10**10) == ""


def test_completions_follow_their_prompts(capsys):
    """They are printed as one text."""
    print_completions([{"prompt": "Once", "completion": " upon a time"}])
    assert capsys.readouterr().out == "Once upon a time\n\n"
    print_completions([{"prompt": "Who?", "completion": "You."}], separator="\n")
    assert capsys.readouterr().out == "Who?\nYou.\n\n"


def test_no_text_of_a_model_commands_the_terminal(capsys, monkeypatch):
    """Samples and predictions show escapes; completions do on a terminal only, so that a pipe gets the text."""
    text = "a\x1b[31mb\u202ec"
    shown = r"a\x1b[31mb\u202ec"
    assert wrap_and_indent(text) == f"  {shown}"
    print_predictions([{"prompt": text, "prediction": text + "x" * 10**6, "references": [text]}])
    printed = capsys.readouterr().out
    assert printed.count(shown) == 3 and len(printed) < 500 and "\x1b" not in printed
    row = {"prompt": text, "completion": "\n\ttab"}
    print_completions([row])
    assert capsys.readouterr().out == f"{text}\n\ttab\n\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_completions([row])
    assert capsys.readouterr().out == f"{shown}\n\ttab\n\n"


def test_json_lines_appear_complete_or_not_at_all(tmp_path):
    """Folders are made, text is not escaped, and if a row fails the old file is unchanged."""
    path = tmp_path / "new" / "rows.jsonl"
    rows = [{"prompt": "汉字", "completion": "a\nb"}, {"prompt": "", "completion": "🙂"}]
    write_json_lines(str(path), rows)
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == rows and "汉字" in text
    with pytest.raises(TypeError):
        write_json_lines(str(path), [{"prompt": object()}])
    assert path.read_text(encoding="utf-8") == text
    write_json_lines(str(path), rows[:1])
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1 and os.listdir(path.parent) == ["rows.jsonl"]
