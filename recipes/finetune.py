"""Fine-tune a language model for an application, and evaluate it with the application's metric during training.

accelerate launch recipes/finetune.py --config recipes/configs/summarization.yaml
accelerate launch recipes/finetune.py --config recipes/configs/translation.yaml --model_name_or_path FOLDER --lora_r 16
"""

import transformers

from hf_llm import arguments
from hf_llm.command_line import parse_args
from hf_llm.data.prompting import add_chat_template, task_settings
from hf_llm.data.rows import load_rows
from hf_llm.distributed.ranks import shut_down
from hf_llm.evaluation.callback import TaskEvaluation
from hf_llm.messages import report_errors
from hf_llm.models.classifiers import find_classifier
from hf_llm.models.loading import load_to_finetune, load_tokenizer
from hf_llm.publishing.hub import check_base, dataset_names, publish, push_callbacks
from hf_llm.publishing.reporting import report_finetuning
from hf_llm.tasks import load_task
from hf_llm.training.checkpoints import find_checkpoint
from hf_llm.training.finetuning import build_prompter, check_model, encode_and_pack, finetuning_options
from hf_llm.training.run import run_training
from hf_llm.training.stopping import stopping_callbacks

GROUPS = [arguments.ModelArguments, arguments.AdapterArguments, arguments.TaskArguments]
GROUPS += [arguments.DataArguments, arguments.FinetuneArguments, transformers.TrainingArguments]


def main():
    model_args, adapter_args, task_args, data_args, run_args, args = parse_args(GROUPS, description=__doc__)
    checkpoint = find_checkpoint(args.resume_from_checkpoint, args.output_dir)
    transformers.set_seed(args.seed)
    callbacks = stopping_callbacks(args, run_args)
    datasets = dataset_names(data_args)
    task = load_task(task_args.task, **task_args.task_options or {})
    classifier = find_classifier(model_args.model_name_or_path, model_args.trust_remote_code)
    check_model(classifier, model_args, task_args, data_args, task)
    tokenizer, added = add_chat_template(load_tokenizer(model_args), task_args)
    rows = load_rows(data_args, task_args, task, args.seed)
    prompter = build_prompter(classifier, tokenizer, task, data_args.max_length, task_settings(task_args, task, rows))
    train, validation, reports = encode_and_pack(rows, prompter, data_args, args.seed)
    model = load_to_finetune(model_args, adapter_args, tokenizer, data_args.max_length, args.bf16, prompter, added)
    check_base(args, model)
    options = finetuning_options(prompter, model, validation, data_args.packing, args)
    trainer = transformers.Trainer(model, args, train_dataset=train, **options)
    evaluation = TaskEvaluation(trainer, task, rows["validation"], prompter)
    for callback in [evaluation, *callbacks]:
        trainer.add_callback(callback)
    figures = run_training(trainer, checkpoint, data_args.packing, reports, push_callbacks(trainer))
    evaluation.save_predictions()
    report_finetuning(trainer, figures, evaluation.result)
    publish(trainer, figures, base_model=model_args.model_name_or_path, datasets=datasets)
    shut_down()


if __name__ == "__main__":
    with report_errors(resumes=True):
        main()
