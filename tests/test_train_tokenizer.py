"""The recipe that trains and extends vocabularies, as a process; what it leaves behind loads and trains."""

import json

import pytest
import torch
import transformers
from recipe_runs import ROOT, flags, read_json
from safetensors.torch import load_file

RECIPE, PRETRAIN = ROOT / "recipes" / "train_tokenizer.py", ROOT / "recipes" / "pretrain.py"
LINES = ["天地玄黄宇宙洪荒。", "日月盈昃辰宿列张。", "寒来暑往秋收冬藏。", "闰余成岁律吕调阳。", "云腾致雨露结为霜。"]


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_base):
    """A folder with Chinese texts: five lines in all orders of three."""
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = [a + b + c for a in LINES for b in LINES for c in LINES]
    (folder / "chinese.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def said(processes, work, tiny_base):
    """All runs that need no other."""
    data = {"train_file": "chinese.jsonl"}
    jobs = {
        "extended": data | {"model_name_or_path": tiny_base, "new_tokens": 60, "output_dir": "extended"},
        "special": data | {"tokenizer_name": tiny_base, "special_tokens": "<|fim_prefix|>", "output_dir": "special"},
        "unigram": data | {"algorithm": "unigram", "vocab_size": 300, "output_dir": "unigram"},
        "nothing": data | {"model_name_or_path": tiny_base},
        "nowhere": data | {"new_tokens": 60},
        "there": data | {"output_dir": "."},
    }
    return processes.fork_each({name: [RECIPE, *flags(settings)] for name, settings in jobs.items()}, work)


def test_a_model_is_extended_for_a_language(said, work, tiny_base):
    """Old rows as they were, new rows the mean of the pieces they replace; both in and out; tokens halved."""
    assert said["extended"].status == 0, said["extended"].stderr
    tokenizer = transformers.AutoTokenizer.from_pretrained(work / "extended")
    before = transformers.AutoTokenizer.from_pretrained(tiny_base)
    assert len(tokenizer) == 660
    old, new = load_file(tiny_base / "model.safetensors"), load_file(work / "extended" / "model.safetensors")
    new_id = next(
        id for token, id in tokenizer.get_vocab().items() if id >= 600 and "\ufffd" not in tokenizer.decode(id)
    )
    pieces = before(tokenizer.decode(new_id), add_special_tokens=False).input_ids
    for name, weights in old.items():
        if weights.shape[0] == 600:
            assert new[name].shape[0] == 660 and torch.equal(new[name][:600], weights)
            assert torch.allclose(new[name][new_id], weights[pieces].mean(0), atol=1e-6)
        else:
            assert torch.equal(new[name], weights)
    scores = read_json(work / "extended" / "eval_results.json")
    assert scores["eval_tokens_per_character"] <= scores["eval_tokens_per_character_before"] / 2
    for figure in ("tokens_per_character", "tokens_per_word", "tokens_per_character_before"):
        assert figure in said["extended"].stdout


def test_an_extended_model_trains_under_zero3(said, processes, work):
    """Two ranks; its embeddings had been resized before, so nothing is left to resize there."""
    settings = {
        "train_file": "chinese.jsonl", "model_name_or_path": "extended", "output_dir": "trained", "max_length": 64,
        "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 0.003, "logging_steps": 1,
        "deepspeed": ROOT / "ds_configs" / "zero3.json",
    }  # fmt: skip
    run = processes.fork([PRETRAIN, *flags(settings)], work, ranks=2)
    assert run.status == 0, run.stderr
    losses = [
        entry["loss"] for entry in read_json(work / "trained" / "trainer_state.json")["log_history"] if "loss" in entry
    ]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert transformers.AutoModelForCausalLM.from_pretrained(work / "trained").config.vocab_size == 660


def test_special_tokens_alone_are_added_to_a_tokenizer(said, work):
    """No model is needed, and none is written."""
    assert said["special"].status == 0, said["special"].stderr
    tokenizer = transformers.AutoTokenizer.from_pretrained(work / "special")
    assert tokenizer.convert_tokens_to_ids("<|fim_prefix|>") == 600
    assert not (work / "special" / "config.json").exists()


def test_a_new_unigram_is_trained(said, work):
    """It reads back what it writes, and is a Unigram."""
    assert said["unigram"].status == 0, said["unigram"].stderr
    tokenizer = transformers.AutoTokenizer.from_pretrained(work / "unigram")
    assert read_json(work / "unigram" / "tokenizer.json")["model"]["type"] == "Unigram"
    assert tokenizer.decode(tokenizer(LINES[0]).input_ids, skip_special_tokens=True) == LINES[0]


@pytest.mark.parametrize(
    ("name", "part"),
    {
        "nothing": "nothing is to be added to",
        "nowhere": "`--new_tokens` extends a vocabulary: name the model or tokenizer with",
        "there": "`--output_dir` . exists already and is not an empty folder",
    }.items(),
)
def test_bad_input_is_one_line(said, name, part):
    """With the remedy, and exit status 2."""
    assert said[name].status == 2 and part in said[name].stderr
    assert said[name].stderr.count("error:") == 1 and "Traceback" not in said[name].stderr
