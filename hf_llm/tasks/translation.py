"""Translate between any two languages: rows as WMT and OPUS have them, `{"translation": {"en": ..., "de": ...}}`."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from hf_llm.metrics.segmentation import language_code
from hf_llm.metrics.translation import Translation as TranslationMetric
from hf_llm.tasks import Task, as_list

# Numbers in words, for the sample.
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
    """BLEU and chrF, with `ter=true` TER too, from `source` to `target`: keys of the column `translation`."""

    source: str = "en"
    target: str = "de"
    ter: bool = False
    max_new_tokens: int = 128

    columns: ClassVar = {"translation": ()}

    def column_names(self):
        return [*self.columns, self.source, self.target]

    def adapt(self, rows):
        """Columns that are named by the two languages, as a CSV file has them."""
        pair = [self.source, self.target]
        if not set(pair) <= set(rows.column_names):
            return rows
        if "translation" in rows.column_names:
            rows = rows.remove_columns("translation")
        texts = [dict(zip(pair, row, strict=True)) for row in zip(*(rows[code] for code in pair), strict=True)]
        return rows.add_column("translation", texts).remove_columns(pair)

    def to_example(self, row):
        texts = row["translation"]
        if not isinstance(texts, dict):
            raise ValueError(f'`translation` is `{texts}`: give {{"{self.source}": "...", "{self.target}": "..."}}')
        for language in (self.source, self.target):
            if texts.get(language) is None:
                there = ", ".join(key for key, text in texts.items() if text is not None) or "nothing"
                raise ValueError(f"no `{language}` in `translation`, only {there}: choose with `--task_options`")
            if not isinstance(texts[language], str):
                raise ValueError(f"`{language}` of `translation` is `{texts[language]}`, no text: correct the row")
        source, target = (LANGUAGES.get(language_code(code), code).capitalize() for code in (self.source, self.target))
        return {
            "prompt": f"Translate from {source} to {target}.\n\n{source}: {one_line(texts[self.source])}\n{target}:",
            "completion": one_line(texts[self.target]),
        }

    def references(self, row):
        return as_list(row["translation"][self.target])

    def metric(self):
        return TranslationMetric(target_language=self.target, ter=self.ter)

    def sample(self):
        """Sentences with numbers in words, English and German; of four words and more, or BLEU would find nothing."""
        numbers = [n * 7919 % 9999 + 1 for n in range(600)]
        rows = [
            {"translation": {code: f"{NUMBERS[code]['begun']} {words(number, code)}." for code in NUMBERS}}
            for number in numbers
        ]
        return DatasetDict({"train": Dataset.from_list(rows[:500]), "validation": Dataset.from_list(rows[500:])})


def one_line(text: str) -> str:
    return " ".join(text.split())


def words(number: int, language: str) -> str:
    """A number from 1 to 9,999 as one says it.

    Example:
        >>> words(4321, "de")
        'viertausend dreihundert einundzwanzig'
    """
    said, parts = NUMBERS[language], []
    units, tens = said["units"].split(), said["tens"].split()
    for size, name in said["large"]:
        if number >= size:
            parts.append(name.format(units[number // size]))
            number %= size
    if number < 20:
        parts += [units[number]] if number else []
    elif number % 10:
        parts.append(said["joined"].format(ten=tens[number // 10 - 2], unit=units[number % 10]))
    else:
        parts.append(tens[number // 10 - 2])
    return " ".join(parts)
