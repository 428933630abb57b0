"""Translate between two languages: rows in the format of WMT and OPUS, `{"translation": {"en": ..., "de": ...}}`."""

import re
from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import ORIGIN
from hf_llm.metrics.language_codes import language_code, language_name
from hf_llm.metrics.translation import Translation as TranslationMetric
from hf_llm.tasks import Task, reference_list

FLORES_COLUMN = re.compile(r"(?:sentence_)?([a-z]{3}_[A-Z][a-z]{3})")
# How to write numbers in words, for the sample.
NUMBERS = {
    "en": {
        "units": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen seventeen eighteen nineteen",
        "tens": "twenty thirty forty fifty sixty seventy eighty ninety",
        "large": ((1000, "{} thousand"), (100, "{} hundred")),
        "joined": "{ten}-{unit}",
        "begun": "The number is",
    },
    "de": {
        "units": "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
        "sechzehn siebzehn achtzehn neunzehn",
        "tens": "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
        "large": ((1000, "{}tausend"), (100, "{}hundert")),
        "joined": "{unit}und{ten}",
        "begun": "Die Zahl ist",
    },
}


@dataclass
class Translation(Task):
    """BLEU and chrF, and TER with `ter=true`. `source` and `target` are keys of the column `translation`.

    Args:
        bleu_tokenizer: tokenizer of sacreBLEU, e.g. char or flores200. Default: by the target language.
    """

    source: str = "en"
    target: str = "de"
    ter: bool = False
    bleu_tokenizer: str = ""
    max_new_tokens: int = 128

    columns: ClassVar = {"translation": ()}
    nested_columns = ("translation",)

    def __post_init__(self):
        if self.source == self.target:
            raise ValueError(f"`--task_options` source={self.source},target={self.target}: choose two languages")

    def column_names(self):
        return [*self.columns, self.source, self.target]

    def adapt(self, rows):
        """Merge two columns named by the languages, as in a CSV file, into the column `translation`."""
        codes = (self.source, self.target)
        if "translations" in rows.column_names:  # of TED talks: {"language": ["de", "en"], "translation": [...]}
            lists = rows["translations"][:]
            pairs = [dict(zip(each["language"], each["translation"], strict=True)) for each in lists]
            texts = [{code: pair.get(code) for code in codes} for pair in pairs]
            return rows.remove_columns("translations").add_column("translation", texts)  # pyright: ignore[reportCallIssue]
        if "translation" in rows.column_names and not {*codes} <= {*rows.column_names}:
            return rows
        found = {code: language_column(code, rows.column_names) for code in codes}
        for code, column in found.items():
            if column is None:
                raise ValueError(
                    f"no column `translation` or `{code}`, only "
                    f"{', '.join(name for name in rows.column_names if name != ORIGIN)}: choose languages with "
                    f"`--task_options source=...,target=...`, or name one with `--column_mapping NAME={code}`"
                )
        pair = [column for column in found.values() if column]
        if "translation" in rows.column_names:
            rows = rows.remove_columns("translation")
        texts = [dict(zip(codes, row, strict=True)) for row in zip(*(rows[name][:] for name in pair), strict=True)]
        return rows.add_column("translation", texts).remove_columns(pair)  # pyright: ignore[reportCallIssue]

    def to_example(self, row):
        texts = row["translation"]
        if not isinstance(texts, dict):
            raise ValueError(f'`translation` is `{texts}`: give {{"{self.source}": "...", "{self.target}": "..."}}')
        for language in (self.source, self.target):
            if texts.get(language) is None:
                available = ", ".join(key for key, text in texts.items() if text is not None) or "nothing"
                raise ValueError(f"no `{language}` in `translation`, only {available}: choose with `--task_options`")
            if not isinstance(texts[language], str):
                raise ValueError(f"`{language}` of `translation` is `{texts[language]}`, not a text: correct the row")
        source, target = language_name(self.source), language_name(self.target)
        text, completion = (collapse_whitespace(texts[language]) for language in (self.source, self.target))
        prompt = f"Translate from {source} to {target}.\n\n{source}: {text}\n{target}:"
        return {"prompt": prompt, "completion": completion}

    def references(self, row):
        return reference_list(row["translation"][self.target])

    def metric(self):
        return TranslationMetric(target_language=self.target, ter=self.ter, tokenizer=self.bleu_tokenizer)

    def sample(self):
        """English and German sentences with a number in words; at least four words each, since BLEU counts 4-grams."""
        numbers = [n * 7919 % 9999 + 1 for n in range(600)]
        rows = [
            {"translation": {code: f"{NUMBERS[code]['begun']} {number_in_words(number, code)}." for code in NUMBERS}}
            for number in numbers
        ]
        return DatasetDict({"train": Dataset.from_list(rows[:500]), "validation": Dataset.from_list(rows[500:])})


def language_column(code: str, columns: list[str]) -> str | None:
    """The column of a language: of that name, or the only one of the same language, as FLORES names it.

    Example:
        >>> language_column("de", ["id", "sentence_eng_Latn", "sentence_deu_Latn"])
        'sentence_deu_Latn'
    """
    if code in columns:
        return code
    if f"sentence_{code}" in columns:
        return f"sentence_{code}"
    codes = {name: found[1] for name in columns if (found := FLORES_COLUMN.fullmatch(name))}
    found = [name for name, other in codes.items() if language_code(other) == language_code(code)]
    return found[0] if len(found) == 1 else None


def collapse_whitespace(text: str) -> str:
    """Replace line breaks and repeated spaces by single spaces: a line end would end the answer."""
    return " ".join(text.split())


def number_in_words(number: int, language: str) -> str:
    """Write a number from 1 to 9,999 in words.

    Example:
        >>> number_in_words(4321, "de")
        'viertausend dreihundert einundzwanzig'
    """
    vocabulary, parts = NUMBERS[language], []
    units, tens = vocabulary["units"].split(), vocabulary["tens"].split()
    for size, name in vocabulary["large"]:
        if number >= size:
            parts.append(name.format(units[number // size]))
            number %= size
    if number < 20:
        parts += [units[number]] if number else []
    elif number % 10:
        parts.append(vocabulary["joined"].format(ten=tens[number // 10 - 2], unit=units[number % 10]))
    else:
        parts.append(tens[number // 10 - 2])
    return " ".join(parts)
