"""Names of flags in run_clm.py, TRL, LLaMA-Factory, axolotl and earlier versions of transformers."""

# -> the name here that takes the same values.
NAMES_IN_OTHER_TOOLS = {
    other: name
    for name, others in {
        "max_length": "block_size max_seq_length max_seq_len seq_length seq_len cutoff_len sequence_len",
        "max_new_tokens": "max_tokens max_completion_length max_target_length val_max_target_length",
        "num_train_epochs": "epochs num_epochs n_epochs",
        "max_steps": "steps max_iters train_steps",
        "per_device_train_batch_size": "batch_size train_batch_size micro_batch_size per_gpu_train_batch_size "
        "per_device_batch_size",
        "per_device_eval_batch_size": "eval_batch_size per_gpu_eval_batch_size",
        "gradient_accumulation_steps": "grad_accum grad_accum_steps gradient_accumulation accumulation_steps",
        "model_name_or_path": "model base_model model_name adapter_name_or_path lora_model_dir",
        "tokenizer_name": "tokenizer tokenizer_path",
        "validation_fraction": "val_size val_set_size validation_split_percentage",
        "validation_file": "valid_file val_file eval_file test_file test_data",
        "dataset_config_name": "dataset_config subset",
        "max_train_samples": "max_samples",
        "max_eval_samples": "limit",
        "dataset_num_proc": "preprocessing_num_workers dataset_processes num_proc",
        "dataset_text_field": "text_column text_column_name text_field",
        "packing": "sample_packing neat_packing padding_free eval_packing eval_sample_packing",
        "chat_template": "template chat_template_path chat_template_jinja",
        "system_prompt": "system system_message default_system",
        "lora_r": "lora_rank rank",
        "lora_alpha": "alpha",
        "lora_target_modules": "lora_target target_modules",
        "attn_implementation": "flash_attn",
        "dtype": "torch_dtype model_dtype",
        "learning_rate": "lr",
        "lr_scheduler_type": "lr_scheduler scheduler",
        "optim": "optimizer",
        "use_liger_kernel": "enable_liger_kernel liger",
        "eval_strategy": "evaluation_strategy",
        "eval_steps": "eval_every eval_interval",
        "save_steps": "save_every save_interval",
        "logging_steps": "log_every log_interval",
        "output_dir": "output output_path save_dir export_dir",
        "run_name": "wandb_name",
        "hub_model_id": "push_to_hub_model_id",
        "use_cpu": "no_cuda",
        "deepspeed": "deepspeed_config ds_config",
    }.items()
    for other in others.split()
}
# -> what to do instead, where another value or a choice is needed, or the recipe has no such flag.
REMEDIES = {
    other: remedy
    for remedy, others in {
        "name another `--output_dir`, or resume with `--resume_from_checkpoint true`": "overwrite_output_dir",
        "give it as `--warmup_steps`, where a number below 1 is a fraction of the steps": "warmup_ratio",
        "give `--train_sampling_strategy group_by_length`": "group_by_length",
        "trackers choose their folder: TensorBoard's is TENSORBOARD_LOGGING_DIR": "logging_dir",
        "leave it out, as all weights are saved so": "save_safetensors",
        "leave it out, as fast tokenizers are used where there is one": "use_fast_tokenizer",
        "`--lora_r 16` of recipes/finetune.py": "use_lora use_peft finetuning_type adapter lora peft",
        "`--load_in_4bit true --lora_r 16` of recipes/finetune.py": "load_in_8bit quantization_bit bits qlora q_lora",
        "leave it out: adapters get all linear layers except the output": "lora_target_linear",
        "set `--lora_alpha` to alpha times the square root of the rank": "use_rslora",
        "leave it out: only completions and the assistant's turns are trained, their ends included; `--train_on` of "
        "recipes/finetune.py changes this": "completion_only_loss assistant_only_loss loss_on_completions_only "
        "train_on_responses_only train_on_completions_only train_on_inputs train_on_prompt train_on_eos roles_to_train "
        "mask_history mask_prompt response_template instruction_template response_part instruction_part",
        "`--max_length` counts prompt and completion together": "max_source_length max_target_length "
        "val_max_target_length max_prompt_length max_completion_length",
        "answers are generated where a task writes text: leave it out": "predict_with_generate",
        "`--attn_implementation`, e.g. flash_attention_2 or sdpa, of the recipes that train": "flash_attention "
        "use_flash_attention_2 sdp_attention xformers_attention flex_attention",
        "training takes `--bf16`, its result `--save_dtype`; recipes/eval.py takes `--dtype`": "dtype torch_dtype "
        "model_dtype pure_bf16",
        "`--chat_template_kwargs enable_thinking=false`": "enable_thinking",
        "`--task_options source=en,target=de` of the task translation": "source_lang target_lang",
        "name the columns by `--column_mapping COLUMN=NAME`, the data's name first": "text_column text_column_name "
        "text_field dataset_text_field summary_column label_column label_column_name instruction_column input_column "
        "output_column prompt_column response_column messages_column columns column_names",
        "give `--train_file` for files, `--dataset_name` for the Hub, `--mixture` for several sources": "data "
        "dataset datasets dataset_dir data_path data_file data_files train_path train_data train_dir",
        "give files by `--validation_file`": "eval_dataset eval_data test_datasets",
        "the splits `train` and `validation` or `test` are used: leave it out, or give files": "split "
        "dataset_train_split dataset_test_split",
        "sources and their weights are in the file of `--mixture`": "mix_strategy interleave_probs",
        "recipes/tokenize_data.py tokenizes once: give its folder as `--train_file`": "tokenized_path "
        "dataset_prepared_path",
        "recipes/train_tokenizer.py adds tokens: `--model_name_or_path MODEL --special_tokens ...`": "tokens "
        "add_tokens add_special_tokens new_special_tokens special_tokens resize_vocab",
        "recipes/pretrain.py pretrains, recipes/finetune.py fine-tunes: leave it out": "stage",
        "`--model_type` and `--config_overrides` describe a new model": "config_name",
        "download it by `hf download MODEL --revision REVISION --local-dir FOLDER`, and give the folder": "revision "
        "model_revision",
        "set the environment variable HF_HOME": "cache_dir",
        "set the environment variable HF_TOKEN, or log in by `hf auth login`": "use_auth_token hf_token auth_token",
        "set the environment variable WANDB_ENTITY": "wandb_entity",
        "give `--eval_strategy steps --eval_steps N`; below 1, N is a fraction of all steps": "evals_per_epoch",
        "give `--save_steps N`; below 1, N is a fraction of all steps": "saves_per_epoch",
        "give `--deepspeed ds_configs/zero2.json`": "zero zero_stage",
        "start the recipe by `accelerate launch --num_processes N`": "num_gpus n_gpu gpus nproc_per_node devices",
        "leave it out, or give `--prompt_style chat`": "apply_chat_template",
        "leave it out, as predictions.jsonl has them": "log_samples",
    }.items()
    for other in others.split()
}
