"""Complete prompts, answer them with a chat model, or fill in the middle between a prompt and a suffix.

python recipes/generate.py --model_name_or_path outputs/pretrain_tiny --prompt "Return the"
python recipes/generate.py --model_name_or_path outputs/pretrain_tiny --prompt_file prompts.txt \\
    --do_sample --temperature 0.8 --top_k 40 --output_file completions.jsonl
python recipes/generate.py --model_name_or_path outputs/fim --prompt "def add(a, b):" --suffix "return total"
"""

from dataclasses import replace

from hf_llm.arguments import GenerateArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import print_json, report_errors


def main():
    (args,) = parse_args([GenerateArguments], description=__doc__)
    # These imports take seconds, which `--help` and errors in flags need not wait for.
    from hf_llm.data.prompting import new_chat_format, prompt_settings, set_chat_template
    from hf_llm.evaluation.generation import complete, sampling_options
    from hf_llm.evaluation.prompts import format_prompts, read_prompts
    from hf_llm.files import lock_output_file, write_json_lines
    from hf_llm.models.inspection import end_token_ids
    from hf_llm.models.loading import load_for_generation
    from hf_llm.publishing.reporting import print_completions

    lock_output_file(args.output_file)
    rows = read_prompts(args)
    model, tokenizer = load_for_generation(args.model_name_or_path, args.trust_remote_code)
    set_chat_template(tokenizer, args)
    settings = prompt_settings(args)
    chat = new_chat_format(tokenizer, replace(settings, style="plain") if "suffix" in rows[0] else settings)
    options = {"batch_size": args.batch_size, "seed": args.seed} | sampling_options(args)
    if chat:  # its template may end an answer by another token than the model's generation config says
        options["eos_token_id"] = end_token_ids(model, tokenizer, chat.end)
    completions = complete(model, tokenizer, format_prompts(tokenizer, rows, chat), **options)
    rows = [row | {"completion": completion} for row, completion in zip(rows, completions, strict=True)]
    if args.output_file:
        write_json_lines(args.output_file, rows)
    else:
        print_completions(rows, separator="\n" if chat else "")
    print_json(output_file=args.output_file, completions=rows if args.output_file is None else len(rows))


if __name__ == "__main__":
    with report_errors():
        main()
