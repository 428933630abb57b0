"""A run writes its record from its start, and a resumed one continues it."""

import json
import re

from tiny import TEXTS, new_tokenizer, new_trainer, packed

from hf_llm.training.record import read_run
from hf_llm.training.run import run_training

TOKENIZER = new_tokenizer()
REPORTS = {"train": [packed(TEXTS, TOKENIZER)[2]], "eval": [packed(TEXTS[:7], TOKENIZER)[2]]}


def test_the_log_is_that_of_the_trainer_with_the_seconds(tmp_path):
    """Also after a resume: the entries up to the checkpoint, then the new ones; seconds never decrease."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 0.01}
    (tmp_path / "run.yaml").write_text("of: an earlier run")
    trainer = new_trainer(tmp_path, TOKENIZER, **settings)
    run_training(trainer, None, packing=True, reports=REPORTS)
    first = read_run(tmp_path)
    assert first.log == trainer.state.log_history and [*first.log[0]][0 :: len(first.log[0]) - 1] == ["step", "seconds"]
    assert [entry["step"] for entry in first.log if "loss" in entry] == [1, 2, 3, 4]
    assert not first.settings  # they are not known outside of a recipe
    trainer = new_trainer(tmp_path, TOKENIZER, **settings)
    run_training(trainer, str(tmp_path / "checkpoint-2"), packing=True, reports=REPORTS)
    log = read_run(tmp_path).log
    assert log[:2] == first.log[:2] and len(log) == len(first.log)
    assert [entry.get("loss") for entry in log] == [entry.get("loss") for entry in first.log]
    assert (seconds := [entry["seconds"] for entry in log]) == sorted(seconds)
    trainer = new_trainer(tmp_path, TOKENIZER, **settings)
    run_training(trainer, str(tmp_path / "checkpoint-4"), packing=True, reports=REPORTS)
    assert [entry.get("loss") for entry in read_run(tmp_path).log][:4] == [entry["loss"] for entry in log[:4]]


def test_the_environment_has_versions_hardware_and_data(tmp_path):
    """And no name of a user, host or folder."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    run_training(trainer, None, packing=True, reports=REPORTS)
    environment = read_run(tmp_path).environment
    assert environment["finished"] and environment["wall_seconds"] > 0 and environment["ranks"] == 1
    assert environment["data"]["train"]["rows"] == len(trainer.train_dataset)
    assert environment["data"]["train"]["fingerprint"] != environment["data"]["validation"]["fingerprint"]
    assert {"torch", "transformers", "datasets", "tokenizers"} <= environment["versions"].keys()
    assert environment["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", environment["commit"])
    assert environment["hardware"]["cores"] > 0 and environment["hardware"]["memory_bytes"] > 2**28
    assert str(tmp_path) not in json.dumps(environment)
