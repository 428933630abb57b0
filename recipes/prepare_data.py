"""Prepare raw files for training: clean, filter and deduplicate documents, write shards, count what is dropped and why.

python recipes/prepare_data.py --files 'raw/*.jsonl.gz' --output_dir data/prepared
python recipes/prepare_data.py --files crawl books.csv --dataset_text_field body --output_dir data/prepared
accelerate launch recipes/pretrain.py --train_file data/prepared
"""

from hf_llm.arguments import PreparationArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import report_errors


def main():
    (args,) = parse_args([PreparationArguments], description=__doc__)
    # These imports take seconds, which `--help` and errors in flags need not wait for; torch only for a tokenizer.
    from hf_llm.preparation.pipeline import prepare
    from hf_llm.preparation.report import print_summary

    tokenizer = None
    if args.tokenizer_name:
        from hf_llm.models.loading import load_tokenizer, model_arguments

        tokenizer = load_tokenizer(model_arguments(args.tokenizer_name, False))
    manifest = prepare(args, tokenizer)
    print_summary(args.output_dir, manifest)


if __name__ == "__main__":
    with report_errors():
        main()
