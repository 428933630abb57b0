"""Compare training runs or evaluations: what differs, curves, scores, and which is better, or that it cannot be told.

python recipes/compare.py outputs/small outputs/large
python recipes/compare.py outputs/small_seed* outputs/large_seed* --output_dir outputs/comparison
python recipes/compare.py outputs/eval/new outputs/eval/old --fail_unless_better accuracy

Exit status: 0, or with --fail_unless_better 0 if the first is better than all others; 1 if it is not, or if it cannot
be told; 2 for bad input.
"""

import sys

from hf_llm.arguments import CompareArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import print_json, report_errors


def main():
    (args,) = parse_args([CompareArguments], description=__doc__)
    # These imports take seconds, which `--help` and errors in flags need not wait for.
    from hf_llm.files import check_writable
    from hf_llm.publishing.compared_runs import read_results
    from hf_llm.publishing.comparison import compare_results
    from hf_llm.publishing.comparison_page import print_comparison, write_comparison

    if args.output_dir:
        check_writable(args.output_dir)
    comparison = compare_results(read_results(args.folders), args.fail_unless_better or args.metric, args.subject)
    print_comparison(comparison)
    if args.output_dir:
        write_comparison(comparison, args.output_dir)
        print(f"\nReport: {args.output_dir}/comparison.html", flush=True)
    print_json(output_dir=args.output_dir, comparison=comparison.figures())
    if args.fail_unless_better and not comparison.first_is_better():
        sys.exit(1)


if __name__ == "__main__":
    with report_errors():
        main()
