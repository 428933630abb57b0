"""Tokenize and pack text once, for many runs of recipes/pretrain.py on any machine.

python recipes/tokenize_data.py --train_file data/prepared --tokenizer_name FOLDER --max_length 1024 \\
    --output_dir data/tokens
accelerate launch recipes/pretrain.py --train_file data/tokens --max_length 1024 --output_dir outputs/mine
"""

from hf_llm.arguments import TokenizationArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import report_errors


def main():
    (args,) = parse_args([TokenizationArguments], description=__doc__)
    # These imports take seconds, which `--help` and errors in flags need not wait for.
    from hf_llm.data.sources import load_splits
    from hf_llm.data.token_folders import save_token_folder
    from hf_llm.files import new_folder
    from hf_llm.models.loading import load_tokenizer, model_arguments
    from hf_llm.publishing.reporting import report_tokens

    with new_folder(args.output_dir) as folder:
        tokenizer = load_tokenizer(model_arguments(args.tokenizer_name, args.trust_remote_code))
        splits = load_splits(args, args.seed)
        report_tokens(args, save_token_folder(folder, splits, tokenizer, args))


if __name__ == "__main__":
    with report_errors():
        main()
