"""Prepare raw files for training: cleaned, without duplicates, in shards, every dropped row counted by its reason.

python recipes/prepare_data.py --files 'raw/*.jsonl.gz' --output_dir data/prepared
python recipes/prepare_data.py --files crawl books.csv --dataset_text_field body --output_dir data/prepared
accelerate launch recipes/pretrain.py --train_file data/prepared
"""

from hf_llm.arguments import PreparationArguments, parse_args, report_errors


def main():
    (args,) = parse_args([PreparationArguments], description=__doc__)
    # Seconds of imports that `--help` and a wrong flag need not wait for.
    from hf_llm.data.preparation import prepare
    from hf_llm.modeling import load_tokenizer, model_arguments
    from hf_llm.reporting import report_preparation

    tokenizer = load_tokenizer(model_arguments(args.tokenizer_name, False)) if args.tokenizer_name else None
    manifest = prepare(args, tokenizer)
    report_preparation(args.output_dir, manifest)


if __name__ == "__main__":
    with report_errors():
        main()
