"""Whatever changes the training makes another run, whose checkpoints are not resumed from; nothing else does."""

import dataclasses
import json
from types import SimpleNamespace

import peft
import pytest
import torch
from datasets import Dataset
from tiny import TEXTS, new_model, new_tokenizer, new_trainer, packed
from transformers import AutoTokenizer, PreTrainedTokenizerFast, TrainingArguments

from hf_llm.arguments import ModelArguments
from hf_llm.data.arrow import hash_rows
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.models.loading import load_tokenizer
from hf_llm.training.facts import COMPARED_ARGUMENTS, differences, run_facts
from hf_llm.training.stopping import enable_early_stopping

TOKENIZER = new_tokenizer()

# Fields of TrainingArguments that are compared in another form, and why each of the others may differ.
COMPARED_OTHERWISE = {"per_device_train_batch_size", "gradient_accumulation_steps", "data_seed", "deepspeed"}
COMPARED_OTHERWISE |= {"metric_for_best_model", "greater_is_better"}
MAY_DIFFER = {
    "is announced by a warning": ["max_steps", "num_train_epochs"],
    "changes rounding only": [
        *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing", "tf32", "use_cpu"),
        *("gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode"),
        *("use_liger_kernel", "liger_kernel_config", "full_determinism"),
    ],
    "changes speed or memory only": [
        *("auto_find_batch_size", "torch_empty_cache_steps", "dataloader_num_workers", "dataloader_pin_memory"),
        *("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
        *("dataloader_in_order", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"),
        *("ddp_static_graph", "ddp_backend", "ddp_timeout", "skip_memory_metrics", "local_rank"),
    ],
    "is for evaluation": [
        *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size"),
        *("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps"),
        *("include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval", "load_best_model_at_end"),
    ],
    "is for logs": [
        *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter"),
        *("include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name"),
        *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "debug"),
    ],
    "is for files": [
        *("output_dir", "save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit"),
        *("enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"),
        *("hub_always_push", "hub_revision", "resume_from_checkpoint", "restore_callback_states_from_checkpoint"),
    ],
    "is set by the recipes, refused, or without effect": [
        *("use_cache", "ignore_data_skip", "parallelism_config", "remove_unused_columns", "label_names", "fsdp"),
        *("fsdp_config", "do_train", "do_eval", "do_predict"),
    ],
}


def facts(folder, model=None, **settings):
    return run_facts(new_trainer(folder, TOKENIZER, model, **settings))


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The facts of a run with the default settings, as its manifest holds them."""
    facts_of_a_run = facts(tmp_path_factory.mktemp("before"))
    assert json.loads(json.dumps(facts_of_a_run)) == facts_of_a_run
    return facts_of_a_run


def test_every_field_of_the_trainers_arguments_is_compared_or_may_differ():
    """A field of a new transformers fails here until somebody decides."""
    harmless = {name for names in MAY_DIFFER.values() for name in names}
    compared = {*COMPARED_ARGUMENTS} | COMPARED_OTHERWISE
    assert not compared & harmless
    assert compared | harmless == {field.name for field in dataclasses.fields(TrainingArguments) if field.init}


OTHER_SETTINGS = {
    "optim": ("adamw_torch", "optim was adamw_torch_fused and is adamw_torch"),
    "optim_args": ("fused=true", "optim_args was None and is fused=true"),
    "optim_target_modules": (["q"], "optim_target_modules was None and is ['q']"),
    "learning_rate": (0.5, "learning_rate was 0.001 and is 0.5"),
    "lr_scheduler_type": ("cosine", "lr_scheduler_type was linear and is cosine"),
    "lr_scheduler_kwargs": ({"num_cycles": 2}, "lr_scheduler_kwargs was None and is {'num_cycles': 2}"),
    "warmup_steps": (2, "warmup_steps was 0 and is 2"),
    "weight_decay": (0.1, "weight_decay was 0.0 and is 0.1"),
    "adam_beta1": (0.8, "adam_beta1 was 0.9 and is 0.8"),
    "adam_beta2": (0.95, "adam_beta2 was 0.999 and is 0.95"),
    "adam_epsilon": (1e-6, "adam_epsilon was 1e-08 and is 1e-06"),
    "max_grad_norm": (0.5, "max_grad_norm was 1.0 and is 0.5"),
    "label_smoothing_factor": (0.1, "label_smoothing_factor was 0.0 and is 0.1"),
    "neftune_noise_alpha": (5.0, "neftune_noise_alpha was None and is 5.0"),
    "average_tokens_across_devices": (False, "average_tokens_across_devices was True and is False"),
    "bf16": (True, "bf16 was False and is True"),
    "seed": (7, "seed was 42 and is 7; data_seed was 42 and is 7"),
    "data_seed": (7, "data_seed was 42 and is 7"),
    "train_sampling_strategy": ("sequential", "train_sampling_strategy was random and is sequential"),
    "length_column_name": ("lengths", "length_column_name was length and is lengths"),
    "dataloader_drop_last": (True, "dataloader_drop_last was False and is True"),
    "accelerator_config": ({"even_batches": False}, "accelerator_config.even_batches was True and is False"),
    "gradient_accumulation_steps": (3, "rows per step was 2 and is 6"),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_another_setting_makes_another_run(before, tmp_path, name):
    """Each with both values."""
    value, difference = OTHER_SETTINGS[name]
    assert "; ".join(differences(before, facts(tmp_path, **{name: value}))) == difference


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
        {"data_seed": 42, "lr_scheduler_kwargs": {}, "optim_args": ""},
        {"max_steps": 9, "logging_steps": 3, "save_steps": 5, "eval_strategy": "epoch", "run_name": "again"},
    ],
)
def test_the_same_run_in_other_words_is_the_same_run(before, tmp_path, settings):
    """The same batch in other micro-batches, the same seed, and settings of logs and files."""
    assert differences(before, facts(tmp_path, **settings)) == []


def test_another_metric_validation_set_or_patience_makes_another_best_checkpoint(before, tmp_path):
    """The best score so far would be compared with scores of another kind; without a best one nothing is compared."""

    def best(metric="loss", patience=2, texts=TEXTS[:7]):
        args = TrainingArguments(str(tmp_path), eval_strategy="epoch", metric_for_best_model=metric, use_cpu=True)
        trainer = new_trainer(tmp_path, TOKENIZER, args=args, callbacks=enable_early_stopping(args, patience))
        trainer.eval_dataset = packed(texts, TOKENIZER)[1]
        return run_facts(trainer)

    first = best()
    assert differences(first, best()) == []
    assert "metric_for_best_model was loss and is perplexity" in "; ".join(differences(first, best("perplexity")))
    assert differences(first, best(patience=5)) == ["early_stopping_patience was 2 and is 5"]
    (difference,) = differences(first, best(texts=TEXTS[:8]))
    assert difference.startswith("best checkpoint.validation data was ")
    assert before["best checkpoint"] is None


def test_one_other_token_of_many_rows_is_other_data():
    """Also a token that is not trained on, another border of documents, and the same tokens in other rows."""
    rows = {"input_ids": [[5, 6, 7, 8]] * 5000, "lengths": [[4]] * 5000, "labels": [[5, 6, 7, 8]] * 5000}
    hashes = {hash_rows(Dataset.from_dict(rows))}
    for name, values in {"input_ids": [5, 6, 7, 9], "labels": [-100, 6, 7, 8], "lengths": [1, 3]}.items():
        hashes.add(hash_rows(Dataset.from_dict(rows | {name: [*rows[name][:4321], values, *rows[name][4322:]]})))
    pairs = [[5, 6], [7, 8]] * 5000
    hashes.add(hash_rows(Dataset.from_dict({"input_ids": pairs, "lengths": pairs, "labels": pairs})))
    assert len(hashes) == 5
    assert hash_rows(Dataset.from_dict(rows).select(range(5000))) in hashes


def test_the_model_is_compared_by_its_config_and_the_weights_that_were_loaded(before, tmp_path):
    """New weights come from the seed: machines round them differently, and a checkpoint replaces them."""
    assert differences(before, facts(tmp_path, new_model(num_hidden_layers=1))) == [
        "config.num_hidden_layers was 2 and is 1"
    ]
    rope = {"rope_theta": 20.0, "rope_type": "default"}
    assert differences(before, facts(tmp_path, new_model(rope_parameters=rope))) == [
        "config.rope_parameters.rope_theta was 10000.0 and is 20.0"
    ]
    model = new_model()
    model.config.name_or_path = "somewhere"
    loaded = facts(tmp_path, model)
    model.config.name_or_path = "moved"
    assert differences(loaded, facts(tmp_path, model)) == []
    model.lm_head.weight.data = model.lm_head.weight.flip(0).contiguous()
    (difference,) = differences(loaded, facts(tmp_path, model))
    assert difference.startswith("loaded weights was ")


def test_several_devices_of_one_process_count(before, tmp_path):
    """Each of them takes `--per_device_train_batch_size` rows."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    trainer.args._n_gpu = 2
    assert differences(before, run_facts(trainer)) == ["rows per step was 2 and is 4"]


def test_only_rank_0_hashes(tmp_path, monkeypatch):
    """The others get its facts: eight ranks of a machine need not read all data and weights eight times."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    monkeypatch.setattr("hf_llm.training.facts.broadcast_object_list", lambda own: [{"own": own[0]}])
    assert run_facts(trainer) == {"own": None}


def adapted(change=0.0, **settings):
    model = new_model()
    model.config.name_or_path = "base"
    model.model.layers[0].mlp.up_proj.weight.data += change
    return peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"]} | settings))


def test_an_adapter_on_another_base_is_another_run(tmp_path):
    """The base is compared by its weights, in any precision; the adapter's own are random and not compared."""
    first = facts(tmp_path, adapted())
    assert differences(first, facts(tmp_path, adapted())) == []
    (difference,) = differences(first, facts(tmp_path, adapted(change=1e-3)))
    assert difference.startswith("loaded weights was ")
    (difference,) = differences(first, facts(tmp_path, adapted().to(torch.bfloat16)))
    assert difference.startswith("loaded weights was ")
    changed = facts(tmp_path, adapted(r=4, use_rslora=True, target_modules=["q_proj"]))
    assert sorted(differences(first, changed)) == [
        "adapter.r was 2 and is 4",
        "adapter.target_modules was ['q_proj', 'v_proj'] and is ['q_proj']",
        "adapter.use_rslora was False and is True",
    ]
    whole = new_model()
    whole.config.name_or_path = "base"
    assert "adapter.r was 2 and is None" in differences(first, facts(tmp_path, whole))


def test_a_tokenizer_is_compared_by_its_contents(tmp_path):
    """Saved and loaded it is the same; with another vocabulary, chat template or special token it is another."""
    TOKENIZER.save_pretrained(tmp_path)
    first = facts(tmp_path)["tokenizer"]
    others = [AutoTokenizer.from_pretrained(tmp_path) for _ in range(3)]
    others[0](["padded", "to one length"], padding=True, truncation=True, max_length=4)
    others[1].chat_template = "{{ messages }}"
    others[2].eos_token = others[2].pad_token
    others.append(train_tokenizer(["another text"] * 9, vocab_size=300))
    hashes = [run_facts(new_trainer(tmp_path, tokenizer))["tokenizer"] for tokenizer in others]
    assert first.startswith("300 entries, ")
    assert [found == first for found in hashes] == [True, False, False, False]


def test_a_tokenizer_without_a_backend_is_compared_by_its_vocabulary(tmp_path):
    """Some are written in Python."""

    class InPython(PreTrainedTokenizerFast):
        is_fast = False

    tokenizer = InPython(tokenizer_object=TOKENIZER.backend_tokenizer, eos_token="<|eos|>", pad_token="<|pad|>")
    assert run_facts(new_trainer(tmp_path, tokenizer))["tokenizer"].startswith("300 entries, ")


def test_a_resumed_run_takes_the_tokenizer_that_is_named_now(tmp_path):
    """So that it can be compared; the one in the checkpoint is that which the run has trained, for one size."""
    TOKENIZER.save_pretrained(tmp_path / "checkpoint")
    train_tokenizer(["another text"] * 9, vocab_size=300).save_pretrained(tmp_path / "other")

    def resumed(**settings):
        tokenizer = load_tokenizer(ModelArguments(**settings), None, str(tmp_path / "checkpoint"))
        return run_facts(new_trainer(tmp_path, tokenizer))

    trained, named = resumed(vocab_size=400), resumed(tokenizer_name=str(tmp_path / "other"))
    assert trained["tokenizer"] == facts(tmp_path)["tokenizer"] != named["tokenizer"]
    assert differences(trained, resumed(vocab_size=500)) == ["vocab_size was 400 and is 500"]
    assert named["vocab_size"] is None


def test_a_checkpoint_of_another_zero_stage_is_of_another_run(tmp_path, monkeypatch):
    """Without DeepSpeed the Trainer does not find the optimizer that DeepSpeed saved, and would start a new one."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    before = run_facts(trainer)
    trainer.is_deepspeed_enabled = True
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", SimpleNamespace(zero_stage=2))
    assert differences(before, run_facts(trainer)) == ["ZeRO stage was None and is 2"]
