"""What a model writes or guesses at the end of a run is shown under a heading that says what it is."""

import pytest
from tiny import new_tokenizer, new_trainer

from hf_llm.arguments import PretrainArguments
from hf_llm.evaluation.samples import draw_samples


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return new_trainer(tmp_path_factory.mktemp("run"), new_tokenizer())


def test_a_sample_follows_its_prompt(trainer):
    """The heading names the prompt, and the text begins with it; the same call gives the same text."""
    run_args = PretrainArguments(sample_prompt="Document 1")
    samples = draw_samples(trainer, run_args)
    (text,) = samples.values()
    assert list(samples) == ["A sample of its text, begun with 'Document 1'"]
    assert text.startswith("Document 1") and len(text) > len("Document 1")
    assert draw_samples(trainer, run_args) == samples


def test_a_prompt_that_fills_the_positions_gets_no_completion(trainer):
    """The text says so."""
    (text,) = draw_samples(trainer, PretrainArguments(sample_prompt="it ends. " * 40)).values()
    assert text.endswith("(the prompt fills all of the model's positions)")
