"""Choose hyperparameters by experiments: each trial is a recipe, run as a process with flags from a space.

python recipes/search.py --space space.yaml -- accelerate launch recipes/finetune.py --config FILE
python recipes/search.py --space space.yaml --num_folds 5 --seeds 1 2 3 -- accelerate launch recipes/finetune.py ...
python recipes/search.py --space space.yaml --pruner halving -- accelerate launch recipes/pretrain.py --config FILE
"""

import sys

from hf_llm.arguments import SearchArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import print_json, report_errors


def main():
    # These imports take a second, which `--help` and errors in flags need not wait for.
    from hf_llm.search.commands import check_command, find_recipe, split_command
    from hf_llm.search.space import read_space

    argv, words = split_command(sys.argv[1:])
    (args,) = parse_args([SearchArguments], argv, description=__doc__)
    from hf_llm.search.scheduling import run_search
    from hf_llm.search.summary import report_search, write_results

    command, space = find_recipe(words), read_space(args.space)
    recipe = check_command(command, space, args)
    study = run_search(args, command, recipe, space)
    search = write_results(args.output_dir, study)
    report_search(search, args.output_dir)
    print_json(output_dir=args.output_dir, best=search["best"], verdict=search["verdict"])


if __name__ == "__main__":
    with report_errors():
        main()
