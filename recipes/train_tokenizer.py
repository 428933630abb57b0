"""Train a tokenizer, or extend the vocabulary of a model, e.g. for another language, and initialize its embeddings.

python recipes/train_tokenizer.py --train_file 'books/*.txt' --vocab_size 32768 --output_dir outputs/tokenizer
python recipes/train_tokenizer.py --train_file chinese.jsonl --model_name_or_path outputs/pretrain_tiny \\
    --new_tokens 5000 --output_dir outputs/extended
accelerate launch recipes/pretrain.py --train_file chinese.jsonl --model_name_or_path outputs/extended \\
    --output_dir outputs/chinese
"""

from hf_llm.arguments import TokenizerArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import report_errors


def main():
    (args,) = parse_args([TokenizerArguments], description=__doc__)
    # These imports take seconds, which `--help` and errors in flags need not wait for.
    from hf_llm.data.sources import load_splits
    from hf_llm.data.vocabulary import save_vocabulary, train_or_extend
    from hf_llm.files import new_folder
    from hf_llm.models.extension import extend_embeddings
    from hf_llm.models.loading import load_to_extend
    from hf_llm.publishing.reporting import report_vocabulary
    from hf_llm.training.record import write_settings

    with new_folder(args.output_dir) as folder:
        splits = load_splits(args, args.seed)
        before, model = load_to_extend(args)
        tokenizer, pieces = train_or_extend(args, before, splits["train"]["text"])
        if model is not None:
            extend_embeddings(model, pieces)
        figures = save_vocabulary(folder, splits["validation"]["text"], before, tokenizer, model)
        write_settings(folder, args.settings)
        report_vocabulary(folder, tokenizer, model, figures)


if __name__ == "__main__":
    with report_errors():
        main()
