"""What is done to each text by itself, one step after the other, until one of them leaves it out.

Runs in processes of their own, also on other machines: nothing here is imported that takes long.
"""

from dataclasses import dataclass, field

from hf_llm.metrics.segmentation import WORD_PATTERN
from hf_llm.preparation.anonymization import Anonymizer
from hf_llm.preparation.cleaning import clean, tidy
from hf_llm.preparation.decontamination import Decontaminator
from hf_llm.preparation.languages import identify
from hf_llm.preparation.quality import RULES, Page, without_bad_lines

EXCERPT = 300  # characters of a text that is left out


@dataclass
class Verdict:
    """A text after the steps, or the step that left it out and why.

    Args:
        replaced: kinds of what was anonymised.
        changed: steps that changed the text.
        taken: bytes by which each of them made it smaller.
    """

    text: str
    step: str | None = None
    reason: str | None = None
    language: str | None = None
    replaced: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)


@dataclass
class RowSteps:
    """The steps with their settings; those that are None or empty are left out."""

    clean: bool = True
    min_chars: int = 1
    languages: list[str] = field(default_factory=list)
    language_threshold: float = 0.65
    quality_rules: list[str] = field(default_factory=list)
    decontaminator: Decontaminator | None = None
    cut_contamination: bool = False
    anonymizer: Anonymizer | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is done but to leave empty texts out."""
        given = (self.clean, self.languages, self.quality_rules, self.decontaminator, self.anonymizer)
        return self.min_chars == 1 and not any(given)

    def __call__(self, text: str) -> Verdict:
        verdict, steps = Verdict(text), (self.length, self.language, self.quality, self.decontamination)
        for step in (self.cleaning, *steps, self.anonymization):
            before = verdict.text
            verdict.reason = step(verdict)
            if verdict.reason:
                verdict.step = step.__name__
                verdict.text = verdict.text[:EXCERPT]  # for the report alone
                self.anonymization(verdict)
                verdict.replaced = []
                break
            if verdict.text != before:
                verdict.changed.append(step.__name__)
                verdict.taken.append(len(before.encode()) - len(verdict.text.encode()))
        return verdict

    def cleaning(self, verdict: Verdict) -> None:
        if self.clean:
            verdict.text = clean(verdict.text)

    def length(self, verdict: Verdict) -> str | None:
        return f"fewer than {self.min_chars} characters" if len(verdict.text) < self.min_chars else None

    def language(self, verdict: Verdict) -> str | None:
        if not (self.languages or self.quality_rules):
            return None
        verdict.language, probability = identify(verdict.text)
        if self.languages and verdict.language not in self.languages:
            return f"in `{verdict.language}`"
        sure = not self.languages or probability >= self.language_threshold
        return None if sure else f"probability below {self.language_threshold}"

    def quality(self, verdict: Verdict) -> str | None:
        page = Page(verdict.text, verdict.language or "en")
        for rule in self.quality_rules:
            if rule == "c4":
                verdict.text = tidy(without_bad_lines(verdict.text))
                page = Page(verdict.text, page.language)
            if reason := RULES[rule](page):
                return f"{rule}: {reason}"
        return self.length(verdict)  # of what C4 left

    def decontamination(self, verdict: Verdict) -> str | None:
        if self.decontaminator is None or not len(self.decontaminator.matches(verdict.text)):
            return None
        if not self.cut_contamination:
            return f"{self.decontaminator.ngram} words in a row of an evaluation"
        verdict.text = tidy(self.decontaminator.cut(verdict.text))
        return self.length(verdict) if WORD_PATTERN.search(verdict.text) else "all of it is in an evaluation"

    def anonymization(self, verdict: Verdict) -> None:
        if self.anonymizer is not None:
            verdict.text, verdict.replaced = self.anonymizer(verdict.text)
