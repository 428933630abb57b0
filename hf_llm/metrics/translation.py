"""BLEU, chrF and TER by sacreBLEU, each with its signature, which comparable scores must share."""

from collections.abc import Sequence
from copy import copy
from itertools import zip_longest

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from hf_llm.metrics.base import TaskMetric
from hf_llm.metrics.language_codes import likely_script, parse_language

COLUMN_ENDS = [10, 28]  # of BLEU and chrF in the statistics
ROWS_AT_A_TIME = 200  # sacreBLEU keeps the n-grams of all references that it gets, 20 kB per row
TOKENIZERS = (  # of BLEU, by script
    dict.fromkeys(["Khmr", "Laoo", "Mymr", "Thai", "Tibt"], "char")
    | dict.fromkeys(["Hani", "Hans", "Hant"], "zh")
    | {"Jpan": "ja-mecab", "Hang": "ko-mecab", "Kore": "ko-mecab"}
)


class Translation(TaskMetric):
    """Corpus BLEU and chrF in percent, as printed by the `sacrebleu` command, and TER on request.

    Args:
        target_language: selects BLEU's tokenizer by its script: zh, ja-mecab, ko-mecab, char for other scripts
            without spaces, 13a for all others.
        tokenizer: tokenizer of sacreBLEU to take instead, e.g. char, intl or flores200 (spBLEU).
        ter: compute TER too, which takes a minute for 400 rows whose word order differs.

    Raises:
        ValueError: not a language code, or the tokenizer is unknown or not installed.

    Example:
        >>> Translation("de").compute(predictions=["Guten Tag!"], references=[["Guten Tag!"]])["chrf"]
        100.0
    """

    # Statistics of rows are summed and scored by the private methods that sacreBLEU's own bootstrap uses: the public
    # ones would tokenize every resample again.

    def __init__(self, target_language: str, ter: bool = False, tokenizer: str = ""):
        super().__init__()
        language = parse_language(target_language, "target_language")
        if tokenizer and tokenizer not in BLEU.TOKENIZERS:
            raise ValueError(f"`tokenizer` {tokenizer!r} of BLEU: choose one of {', '.join(BLEU.TOKENIZERS)}")
        name = tokenizer or TOKENIZERS.get(likely_script(language), "13a")
        try:
            bleu = BLEU(tokenize=name)
        except RuntimeError:
            raise ValueError(f"BLEU's tokenizer {name} needs MeCab: pip install 'sacrebleu[{name[:2]}]'") from None
        except (ImportError, OSError, SystemExit) as error:  # SystemExit: a download failed
            raise ValueError(missing_model(name, error)) from None
        self.metrics = {"bleu": bleu, "chrf": CHRF()} | ({"ter": TER()} if ter else {})

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """Compute counts that add up to those of the corpus: (N, 10) for BLEU, (N, 18) for chrF, (N, 2) for TER."""
        blocks = []
        for start in range(0, len(predictions), ROWS_AT_A_TIME):
            block = slice(start, start + ROWS_AT_A_TIME)
            streams = list(zip_longest(*references[block]))  # None where a row has fewer references
            extracted = [m._extract_corpus_statistics(predictions[block], streams) for m in self.metrics.values()]
            blocks.append(np.hstack([np.array(rows, dtype=float) for rows in extracted]))
        counts = {len(texts) for texts in references}
        for metric in self.metrics.values():
            metric.num_refs = min(counts) if len(counts) == 1 else -1  # for the signature, over all blocks
        return np.vstack(blocks)

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Compute the scores of the summed counts."""
        sums = zip(self.metrics.items(), np.split(weights @ statistics, COLUMN_ENDS), strict=False)
        return {name: metric._compute_score_from_stats(counts.tolist()).score for (name, metric), counts in sums}

    def row_scores(self, predictions: Sequence[str], references: Sequence | None = None) -> list[dict[str, float]]:
        """Compute sentence scores; BLEU with effective order, since a sentence without 4-grams would have 0."""
        statistics = self.statistics(predictions, self.list_references(predictions, references))
        sentence = copy(self)
        sentence.metrics = self.metrics | {"bleu": copy(self.metrics["bleu"])}
        sentence.metrics["bleu"].effective_order = True
        return [sentence.scores(row[None], np.ones(1)) for row in statistics]

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """The signatures of sacreBLEU, e.g. `bleu_signature`."""
        return {f"{name}_signature": str(metric.get_signature()) for name, metric in self.metrics.items()}


def missing_model(name: str, error: BaseException) -> str:
    """The message that one of sacreBLEU's SentencePiece tokenizers cannot be loaded, with the remedy."""
    if isinstance(error, ImportError):
        return f"BLEU's tokenizer {name} needs SentencePiece: pip install sentencepiece"
    url = SPM_MODELS[name]["url"]
    path = f"{SACREBLEU_DIR}/models/{url.rpartition('/')[2]}"
    return f"BLEU's tokenizer {name} needs a file that could not be downloaded: save {url} as {path}"
