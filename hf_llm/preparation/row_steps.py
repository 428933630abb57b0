"""The steps that treat one text at a time, in their order, until one of them drops the text.

They run in worker processes, on other machines too: nothing that is slow to import may be imported here.
"""

from dataclasses import dataclass, field

from hf_llm.limits import limited_time
from hf_llm.metrics.segmentation import WORD_PATTERN
from hf_llm.preparation.anonymization import Anonymizer
from hf_llm.preparation.cleaning import clean, trim_whitespace
from hf_llm.preparation.decontamination import Decontaminator
from hf_llm.preparation.languages import identify_language, is_written_in
from hf_llm.preparation.quality import RULES, Page, drop_c4_lines

EXCERPT = 300  # characters of a dropped text that are kept for the report
LIMITED_CHARACTERS = 1_000_000  # a longer text may take more time, in proportion


@dataclass
class RowResult:
    """A text after the steps. If a step dropped it: an excerpt, the step and the reason.

    Args:
        replaced: kind of each value that was anonymized.
        changed: steps that changed the text.
        removed_bytes: by how many bytes each of those made the text smaller (negative: larger).
    """

    text: str
    step: str | None = None
    reason: str | None = None
    language: str | None = None
    replaced: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed_bytes: list[int] = field(default_factory=list)


@dataclass
class RowSteps:
    """The steps with their settings; a setting of None, False or an empty list turns its step off.

    Each step is a method that changes `result.text`, or returns the reason to drop the text. The methods' names are
    the names of the steps in the manifest and the report. A text that takes too long raises a `TimeoutError`.
    """

    clean: bool = True
    min_chars: int = 1
    languages: dict[str, set[str]] = field(default_factory=dict)  # of `parse_languages`
    language_threshold: float = 0.65
    quality_rules: list[str] = field(default_factory=list)
    decontaminator: Decontaminator | None = None
    remove_contamination: bool = False
    anonymizer: Anonymizer | None = None
    max_seconds: float = 60  # of CPU time for a text of up to `LIMITED_CHARACTERS`

    @property
    def only_drop_empty(self) -> bool:
        """Whether the steps change nothing and drop only empty texts."""
        enabled = (self.clean, self.languages, self.quality_rules, self.decontaminator, self.anonymizer)
        return self.min_chars == 1 and not any(enabled)

    def __call__(self, text: str) -> RowResult:
        step, limit = self.cleaning, self.max_seconds * max(1, len(text) / LIMITED_CHARACTERS)
        result, steps = RowResult(text), (self.length, self.language, self.quality, self.decontamination)
        try:
            with limited_time(limit):
                for step in (self.cleaning, *steps, self.anonymization):
                    before = result.text
                    result.reason = step(result)
                    if result.reason:
                        result.step = step.__name__
                        result.text = result.text[:EXCERPT]
                        self.anonymization(result)  # the report shows the excerpt
                        result.replaced = []
                        break
                    if result.text != before:
                        result.changed.append(step.__name__)
                        result.removed_bytes.append(len(before.encode()) - len(result.text.encode()))
        except TimeoutError:
            what = f"{len(text):,} characters take more than {limit:,.3g} CPU seconds in the step `{step.__name__}`"
            raise TimeoutError(f"{what}, see `--max_text_seconds`") from None
        return result

    def cleaning(self, result: RowResult) -> None:
        if self.clean:
            result.text = clean(result.text)

    def length(self, result: RowResult) -> str | None:
        return too_short(self.min_chars) if len(result.text) < self.min_chars else None

    def language(self, result: RowResult) -> str | None:
        if not (self.languages or self.quality_rules):
            return None
        result.language, probability = identify_language(result.text)
        if self.languages and result.language not in self.languages:
            return f"in `{result.language}`"
        scripts = self.languages.get(result.language)
        if scripts and not any(is_written_in(result.text, script) for script in scripts):
            return f"in `{result.language}`, not written in {', '.join(sorted(scripts))}"
        certain = not self.languages or probability >= self.language_threshold
        return None if certain else f"probability below {self.language_threshold}"

    def quality(self, result: RowResult) -> str | None:
        page = Page(result.text, result.language or "en")
        for rule in self.quality_rules:
            if rule == "c4":
                result.text = trim_whitespace(drop_c4_lines(result.text))
                page = Page(result.text, page.language)
            if reason := RULES[rule](page):
                return f"{rule}: {reason}"
        return self.length(result)  # C4 may have removed lines

    def decontamination(self, result: RowResult) -> str | None:
        if self.decontaminator is None or not len(self.decontaminator.matches(result.text)):
            return None
        if not self.remove_contamination:
            return f"{self.decontaminator.ngram} consecutive words of an evaluation"
        result.text = trim_whitespace(self.decontaminator.remove_matches(result.text))
        return self.length(result) if WORD_PATTERN.search(result.text) else "all of it is in an evaluation"

    def anonymization(self, result: RowResult) -> None:
        if self.anonymizer is not None:
            result.text, result.replaced = self.anonymizer(result.text)


def too_short(min_chars: int) -> str:
    """Return the reason for which texts of fewer characters are dropped."""
    return "no text" if min_chars == 1 else f"fewer than {min_chars} characters"
