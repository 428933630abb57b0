"""Accuracies of the task `multiple_choice` beside those of lm-evaluation-harness, on the same rows and prompts.

python benchmarks/multiple_choice.py --model_name_or_path outputs/pretrain_tiny
python benchmarks/multiple_choice.py --tokenizer sentencepiece

The rows are made from the documentation of Python and the first article of the Universal Declaration of Human Rights,
in the layouts of data sets on the Hub. The files for the harness take the prompt from the columns by a template.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from hf_llm.arguments import DataArguments, TaskArguments
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.prompting import Prompter
from hf_llm.data.rows import load_rows
from hf_llm.evaluation.scoring import evaluate_task
from hf_llm.models.loading import load_for_generation
from hf_llm.python_docs import python_docs
from hf_llm.tasks import load_task

ARTICLES = Path(__file__).with_name("human_rights.json")
SCORES = {"accuracy": "acc", "accuracy_norm": "acc_norm", "accuracy_bytes": "acc_bytes"}
QUESTION = "Answer the question.\n\nQuestion: {{question}}\nAnswer:"
# For each layout: prompt, choices and number of the right choice, as templates of the harness.
TEMPLATES = {
    "mmlu": (QUESTION, "{{choices}}", "{{answer}}"),
    "arc": (QUESTION, "{{choices.text}}", "{{choices.label.index(answerKey)}}"),
    "hellaswag": (QUESTION.replace("{{question}}", "{{ctx}}"), "{{endings}}", "{{label}}"),
    "piqa": (QUESTION.replace("{{question}}", "{{goal}}"), "{{[sol1, sol2]}}", "{{label}}"),
    "copa": (
        "Answer the question.\n\nContext: {{premise}}\n\nQuestion: {{'What was the cause?' if question == 'cause' "
        "else 'What happened as a result?'}}\nAnswer:",
        "{{[choice1, choice2]}}",
        "{{label}}",
    ),
    "wic": (
        "Answer the question.\n\nContext: {{sentence1}}\n{{sentence2}}\n\n"
        'Question: Does the word "{{word}}" have the same meaning in both sentences?\nAnswer:',
        "{{['no', 'yes']}}",
        "{{label}}",
    ),
    "race": ("Answer the question.\n\nContext: {{article}}\n\nQuestion: {{question}}\nAnswer:", "{{options}}",
             "{{'ABCD'.index(answer)}}"),
}  # fmt: skip


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="Default: a small model with random weights.")
    parser.add_argument("--tokenizer", choices=["sentencepiece"], help="Of the model with random weights.")
    parser.add_argument("--rows", type=int, default=200, help="Number of rows of each layout.")
    parser.add_argument("--batch_size", type=int, default=8)
    return parser.parse_args()


def sentencepiece_model():
    """A small Llama with random weights, and a tokenizer as Llama 2 has it: BPE over `▁` for spaces, `<s>` in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=special, max_token_length=16, show_progress=False)
    texts = [line for text in python_docs()["train"]["text"] for line in text.split("\n")]
    tokenizer.train_from_iterator(texts, trainer)
    # As in Llama 2: learned from single words, applied to whole texts.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<unk>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=4000, num_key_value_heads=2, initializer_range=0.1, **sizes)
    return AutoModelForCausalLM.from_config(config).eval(), fast


def make_rows(number):
    """Rows of each layout: `number` of them, all different."""
    generator = np.random.default_rng(0)
    texts = [(row["module"], line.strip()) for row in python_docs()["train"] for line in row["text"].split("\n")]
    texts = [(module, " ".join(line.split())) for module, line in texts if 30 < len(line) < 160]
    articles = [article["article_1"] for article in json.loads(ARTICLES.read_text()).values()]
    sentences = [text for article in articles for text in article.replace("。", "。 ").split() if len(text) > 1]
    rows = {name: [] for name in TEMPLATES}
    for _ in range(number):
        picks = [texts[i] for i in generator.permutation(len(texts))[:4]]
        foreign = [sentences[i] for i in generator.permutation(len(sentences))[:4]]
        right = int(generator.integers(4))
        module, line = picks[right]
        question = f'Which module says "{line}"?'
        lines, modules = [pick[1] for pick in picks], [f"{module} ({i})" for i, (module, _) in enumerate(picks)]
        endings = [f"{text[len(text) // 2 :].strip()} {word}" for text, word in zip(lines, foreign, strict=True)]
        rows["mmlu"].append({"question": question, "subject": "python", "choices": modules, "answer": right})
        labeled = {"text": [*map(" ".join, zip(foreign, modules, strict=True))], "label": [*"ABCD"]}
        rows["arc"].append({"id": "0", "question": question, "choices": labeled, "answerKey": "ABCD"[right]})
        start = line[: len(line) // 2]
        rows["hellaswag"].append({"ctx_a": start, "ctx": start, "endings": endings, "label": str(right)})
        rows["piqa"].append({"goal": module, "sol1": lines[right], "sol2": lines[right - 1], "label": 0})
        rows["copa"].append({"premise": lines[0], "choice1": lines[1], "choice2": lines[2],
                             "question": ["cause", "effect"][right % 2], "label": right // 2})  # fmt: skip
        rows["wic"].append({"word": line.split()[0], "sentence1": line, "sentence2": lines[0], "label": right % 2})
        rows["race"].append({"article": " ".join(lines), "question": question, "options": foreign,
                             "answer": "ABCD"[right]})  # fmt: skip
    return rows


def score_here(model, tokenizer, folder, name, batch_size):
    """The three accuracies of each row by hf_llm."""
    task = load_task("multiple_choice")
    data = DataArguments(validation_file=[str(folder / f"{name}.jsonl")], max_length=2048)
    rows = load_rows(data, TaskArguments(task="multiple_choice"), task, 0)["validation"]
    prompter = Prompter(tokenizer, task, 2048, PromptSettings("plain"))
    result = evaluate_task(model, tokenizer, task, rows, prompter=prompter, batch_size=batch_size, show_progress=False)
    return {score: [row[score] for row in result.predictions] for score in SCORES}


def score_by_harness(model, tokenizer, folder, names, batch_size):
    """The same by lm-evaluation-harness, for each layout."""
    for name in names:
        prompt, choices, answer = TEMPLATES[name]
        task = {
            "task": f"hf_llm_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"validation": str(folder / f"{name}.jsonl")}},
            "validation_split": "validation",
            "output_type": "multiple_choice",
            "doc_to_text": prompt,
            "doc_to_choice": choices,
            "doc_to_target": answer,
            "metric_list": [{"metric": metric} for metric in SCORES.values()],
        }
        (folder / f"{name}.yaml").write_text(yaml.dump(task))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    language_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    results = simple_evaluate(language_model, tasks=[f"hf_llm_{name}" for name in names], task_manager=manager,
                              bootstrap_iters=0)  # fmt: skip
    samples = {name: sorted(results["samples"][f"hf_llm_{name}"], key=lambda row: row["doc_id"]) for name in names}
    return {
        name: {score: [row[metric] for row in rows] for score, metric in SCORES.items()}
        for name, rows in samples.items()
    }


def main():
    args = parse()
    if args.tokenizer:
        model, tokenizer = sentencepiece_model()
    else:
        model, tokenizer = load_for_generation(args.model_name_or_path, dtype="float32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for layout, rows in make_rows(args.rows).items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (folder / f"{layout}.jsonl").write_text("".join(lines))
        theirs = score_by_harness(model, tokenizer, folder, [*TEMPLATES], args.batch_size)
        print("| layout | score | hf_llm | harness | rows that differ |\n|---|---|---|---|---|")
        for layout in TEMPLATES:
            ours = score_here(model, tokenizer, folder, layout, args.batch_size)
            for score, metric in SCORES.items():
                mine, other = np.array(ours[score]), np.array(theirs[layout][score])
                print(f"| {layout} | {metric} | {mine.mean():.6f} | {other.mean():.6f} | {(mine != other).sum()} |")


if __name__ == "__main__":
    main()
