"""Score a model on tasks: a folder, a Hub id, a .gguf file or a PEFT adapter, alone or against a baseline.

python recipes/eval.py --model_name_or_path outputs/summarization --task recipes/configs/summarization.yaml
python recipes/eval.py --model_name_or_path outputs/mine --baseline FOLDER --task translation --validation_file de.jsonl
torchrun --nproc_per_node 2 recipes/eval.py --model_name_or_path FOLDER --task question_answering bias
"""

import sys

from hf_llm.arguments import DataArguments, EvalArguments, EvalTaskArguments
from hf_llm.command_line import parse_args, parse_tasks
from hf_llm.messages import print_json, report_errors


def main():
    argv, groups = sys.argv[1:], [EvalTaskArguments, DataArguments, EvalArguments]
    task_args, data_args, args = parse_args(groups, argv, description=__doc__)
    # These imports take seconds, which `--help` and errors in flags need not wait for.
    from hf_llm.distributed.ranks import shut_down
    from hf_llm.evaluation.evaluations import check_evaluation, load_evaluations, score_model
    from hf_llm.evaluation.harness import run_harness, save_harness
    from hf_llm.evaluation.results import compare_and_save, results_folder
    from hf_llm.files import check_output_folder, lock_folder
    from hf_llm.publishing.reporting import report_evaluations, report_harness
    from hf_llm.training.record import write_settings

    args.output_dir = results_folder(task_args, args)
    tasks = parse_tasks(argv, task_args, data_args, args)
    check_output_folder(args.output_dir, tasks)
    lock_folder(args.output_dir)
    check_evaluation(tasks, args)
    evaluations = load_evaluations(tasks)
    metrics, models = {}, [name for name in (args.model_name_or_path, args.baseline) if name]
    if evaluations:
        results = [score_model(name, evaluations, args) for name in models]
        differences = compare_and_save(args, evaluations, results)
        metrics |= report_evaluations(args, evaluations, results, differences)
    if args.harness:
        scores = [run_harness(name, args, task_args, data_args.max_eval_samples) for name in models]
        metrics |= report_harness(args, save_harness(args, scores))
    write_settings(args.output_dir, args.settings)
    print_json(output_dir=args.output_dir, metrics=metrics)
    shut_down()


if __name__ == "__main__":
    with report_errors():
        main()
