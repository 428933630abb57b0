"""A run shows words and numbers while it trains, and nothing twice."""

from types import SimpleNamespace

import pytest
from tiny import new_tokenizer, new_trainer

from hf_llm.training.console import log_line
from hf_llm.training.run import run_training

TOKENIZER = new_tokenizer()


def test_a_log_entry_is_a_line_of_words_and_numbers():
    """The share of the peak in percent, the time left as people write it; no time is left at the last step."""
    logs = {"loss": 6.375, "learning_rate": 4.8e-3, "tokens_per_second": 12345.6, "mfu": 0.0321, "grad_norm": 1.0}
    state = SimpleNamespace(global_step=50, max_steps=1500)
    assert log_line(logs, state, 83) == (
        "step    50 of 1,500   loss 6.375    learning rate 4.8e-03    12,346 tokens/s   MFU  3.2%   1m23s left"
    )
    assert log_line({"loss": 2.0}, SimpleNamespace(global_step=1500, max_steps=1500), 9) == (
        "step 1,500 of 1,500   loss 2.000 "
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a run of four steps with two evaluations prints."""
    import contextlib
    import io

    trainer = new_trainer(tmp_path_factory.mktemp("run"), TOKENIZER, eval_strategy="steps", eval_steps=2)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        run_training(trainer, None, packing=True, reports={"train": [], "eval": []})
    return out.getvalue().splitlines(), err.getvalue()


def test_each_step_and_each_evaluation_is_shown_once(shown):
    """The evaluation after training is left to the report, which has its scores; no entry is a dictionary."""
    lines, _ = shown
    assert [line.split()[1] for line in lines if line.startswith("step")] == ["1", "2", "3", "4"]
    assert [line for line in lines if line.startswith("Validation")] == ["Validation, step 2", "Validation, step 4"]
    assert sum(line.startswith("  loss") for line in lines) == 2
    assert not any("{" in line or "runtime" in line for line in lines)


def test_a_file_gets_no_bars(shown):
    """Each of their states would be a line in it."""
    assert "step/s" not in shown[1] and "Evaluating" not in shown[1]
