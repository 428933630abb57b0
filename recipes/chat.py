"""Talk to a model in the terminal: a folder, a Hub id, a .gguf file or a PEFT adapter.

python recipes/chat.py --model_name_or_path outputs/chat --system_prompt "Answer in one sentence."
python recipes/chat.py --model_name_or_path FOLDER --do_sample --temperature 0.7 --top_p 0.9
python recipes/chat.py --model_name_or_path FOLDER --message "What is a list?" "And a tuple?"
"""

from hf_llm.arguments import ChatArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import print_json, report_errors


def main():
    (args,) = parse_args([ChatArguments], description=__doc__)
    # These imports take seconds, which `--help` and errors in flags need not wait for.
    from hf_llm.evaluation.talk import Talk, user_messages
    from hf_llm.models.loading import load_for_generation

    talk = Talk(*load_for_generation(args.model_name_or_path, args.trust_remote_code), args)
    for message in user_messages(args):
        talk.take(message)
    print_json(messages=talk.messages)


if __name__ == "__main__":
    with report_errors():
        main()
