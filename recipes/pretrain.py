"""Pretrain a language model from raw text: from documents to a checkpoint and its scores in one command.

accelerate launch recipes/pretrain.py
accelerate launch recipes/pretrain.py --train_file 'books/*.txt' --output_dir outputs/books
accelerate launch recipes/pretrain.py --config recipes/configs/pretrain_gpt2_124m.yaml
accelerate launch --use_deepspeed --num_processes 2 recipes/pretrain.py --deepspeed ds_configs/zero2.json
"""

from pathlib import Path

import transformers

from hf_llm.arguments import ModelArguments, PretrainArguments, TextArguments
from hf_llm.command_line import parse_args
from hf_llm.data.sources import load_splits
from hf_llm.distributed.ranks import shut_down
from hf_llm.evaluation.samples import draw_samples
from hf_llm.messages import report_errors
from hf_llm.models.loading import load_model, load_tokenizer
from hf_llm.publishing.hub import dataset_names, publish, push_callbacks
from hf_llm.publishing.reporting import report_pretraining
from hf_llm.training import objectives
from hf_llm.training.checkpoints import find_checkpoint
from hf_llm.training.run import run_training
from hf_llm.training.stopping import stopping_callbacks

GROUPS = [ModelArguments, TextArguments, PretrainArguments, transformers.TrainingArguments]
DEFAULT_CONFIG = str(Path(__file__).parent / "configs" / "pretrain_tiny.yaml")


def main():
    model_args, data_args, run_args, args = parse_args(GROUPS, description=__doc__, default_config=DEFAULT_CONFIG)
    checkpoint = find_checkpoint(args.resume_from_checkpoint, args.output_dir)
    transformers.set_seed(args.seed)
    callbacks = stopping_callbacks(args, run_args)
    datasets = dataset_names(data_args)
    with args.main_process_first(desc="reading the data"):
        splits = load_splits(data_args, args.seed)
    tokenizer = load_tokenizer(model_args, splits["train"], checkpoint, objectives.SPECIAL_TOKENS[run_args.objective])
    objectives.check_objective(model_args, data_args, run_args, args, tokenizer)
    objectives.set_training_arguments(args, data_args, run_args)
    model = load_model(model_args, tokenizer, data_args.max_length, objectives.AUTO_CLASSES[run_args.objective])
    with args.main_process_first(desc="tokenizing and packing"):
        train, validation, reports = objectives.tokenize_and_pack(splits, tokenizer, data_args, run_args, args)
        options = objectives.trainer_options(
            run_args, data_args, model, tokenizer, splits["validation"], validation, args
        )
    trainer = transformers.Trainer(
        model=model, args=args, train_dataset=train, processing_class=tokenizer, callbacks=callbacks, **options
    )
    figures = run_training(trainer, checkpoint, data_args.packing, reports, push_callbacks(trainer))
    report_pretraining(trainer, figures, draw_samples(trainer, run_args))
    publish(trainer, figures, base_model=model_args.model_name_or_path, datasets=datasets)
    shut_down()


if __name__ == "__main__":
    with report_errors(resumes=True):
        main()
