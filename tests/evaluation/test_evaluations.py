"""The tasks of the evaluation recipe are scored on one model after another."""

import pytest
from tiny import new_model, new_tokenizer

from hf_llm.arguments import AdapterArguments, DataArguments, EvalArguments, TaskArguments
from hf_llm.evaluation.evaluations import check_evaluation, load_evaluations, score_model
from hf_llm.models.adapters import add_adapter
from hf_llm.tasks import load_task


def test_an_adapter_without_a_tokenizer_is_scored_with_that_of_its_base(tmp_path):
    """`PeftModel.save_pretrained` saves no tokenizer; such a folder can be a baseline too."""
    base, folder = tmp_path / "base", str(tmp_path / "adapter")
    new_model(max_position_embeddings=256).save_pretrained(base)
    new_tokenizer().save_pretrained(base)
    model = new_model(max_position_embeddings=256)
    model.name_or_path = str(base)
    add_adapter(model, AdapterArguments(lora_r=2)).save_pretrained(folder)
    args = EvalArguments(model_name_or_path=folder, baseline=folder, dtype="float32")
    tasks = {"bias": (TaskArguments(task="bias"), DataArguments(), args)}
    check_evaluation(tasks, args)
    evaluations = load_evaluations(tasks)
    (result,) = score_model(folder, evaluations, args)
    assert len(result.predictions) == len(load_task("bias").sample()["validation"])


def test_nothing_to_score_is_refused():
    """Neither a task nor a task of the harness is named."""
    with pytest.raises(ValueError, match="nothing to score: give `--task` or `--harness`"):
        check_evaluation({}, EvalArguments(model_name_or_path="m"))
