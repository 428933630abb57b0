"""Score a model on a task: a folder, a Hub id, a .gguf file or a PEFT adapter, alone or against a baseline.

python recipes/eval.py --model_name_or_path outputs/summarization --task summarization
python recipes/eval.py --model_name_or_path outputs/mine --baseline FOLDER --task translation --validation_file de.jsonl
accelerate launch --num_processes 2 recipes/eval.py --model_name_or_path FOLDER --task question_answering
"""

from hf_llm.arguments import DataArguments, EvalArguments, TaskArguments, parse_args, report_errors
from hf_llm.checkpoints import check_writable
from hf_llm.data.prompting import new_prompter
from hf_llm.data.rows import load_rows
from hf_llm.distributed import shut_down
from hf_llm.evaluation import compare, evaluate_task
from hf_llm.modeling import load_for_generation
from hf_llm.reporting import report_evaluation
from hf_llm.tasks import load_task


def main():
    task_args, data_args, args = parse_args([TaskArguments, DataArguments, EvalArguments], description=__doc__)
    check_writable(args.output_dir)
    task = load_task(task_args.task, task_args.task_options)
    rows = load_rows(data_args, task_args, task, args.seed)
    results = []
    for name in filter(None, (args.model_name_or_path, args.baseline)):
        model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
        prompter, used = new_prompter(tokenizer, task, rows, task_args, data_args.max_length, args.seed)
        results.append(
            evaluate_task(model, tokenizer, task, used["validation"], prompter=prompter, batch_size=args.batch_size)
        )
    report_evaluation(args, results, compare(task.metric(), *results) if args.baseline else {})
    shut_down()


if __name__ == "__main__":
    with report_errors():
        main()
