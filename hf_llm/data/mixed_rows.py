"""Packed rows of several sources in the shares of a mixture, each row of which can be said before training starts."""

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset, concatenate_datasets
from transformers import TrainerCallback, TrainingArguments

from hf_llm.data.arrow import column, row_facts
from hf_llm.data.mixtures import Mixture, endless_order, spread
from hf_llm.data.streaming import RankRows, StreamedRows, TrackStream
from hf_llm.data.token_folders import TokenRows


class MixedRows(torch.utils.data.Dataset):
    """Rows of an epoch of a mixture, for a Trainer with `train_sampling_strategy="sequential"`.

    Each source is a sequence without an end: its rows in an order drawn from the seed, then again in another order.
    Every epoch continues where the one before ended, so rows that one epoch has no use for come in the next one.

    Args:
        rows: packed rows of each source.
        mixture: the shares.
        seed: determines the order of the rows of each source.
    """

    def __init__(self, rows: dict[str, Dataset], mixture: Mixture, seed: int):
        self.rows, self.mixture, self.seed = rows, mixture, seed
        sizes = {name: len(source) for name, source in rows.items()}
        self.counts = mixture.rows_of_an_epoch(sizes)
        self.sources, self.numbers = spread([*self.counts.values()])
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers that persist see the change
        self.orders: dict[int, tuple[int, np.ndarray]] = {}  # source -> a pass over it, and the order of its rows
        self.trained: list[int] = []  # rows of each epoch that were trained on
        self.description = mixture.describe(sizes, self.counts, "rows")

    def __len__(self) -> int:
        return len(self.sources)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose rows are returned; accelerate calls it."""
        self.epoch.fill_(epoch)

    def __getitem__(self, position: int) -> dict[str, Any]:
        source, number = int(self.sources[position]), int(self.numbers[position])
        name = [*self.rows][source]
        passes, number = divmod(int(self.epoch) * self.counts[name] + number, len(self.rows[name]))
        return self.rows[name][int(self.order(source, passes)[number])] | {"epoch": passes}

    def order(self, source: int, passes: int) -> np.ndarray:
        """The order of the rows of a source in a pass over them, (rows,)."""
        if self.orders.get(source, (None,))[0] != passes:
            size = len([*self.rows.values()][source])
            self.orders[source] = passes, np.random.default_rng([self.seed, source, passes]).permutation(size)
        return self.orders[source][1]

    @property
    def facts(self) -> dict[str, Any]:
        """What must be equal for a resumed run to be the same run."""
        data = {name: row_facts(rows)["data"] for name, rows in self.rows.items()}
        return {"rows": len(self), "mixture": self.counts, "data": data}

    def callbacks(self) -> list[TrainerCallback]:
        """The callback that counts the rows that were trained on."""
        return [CountMixedRows(self)]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Rows and tokens of each source that were trained on, their share, and how often each row was."""
        rows, tokens = dict.fromkeys(self.rows, 0), dict.fromkeys(self.rows, 0)
        for epoch, trained in enumerate(self.trained):
            for source, name in enumerate(self.rows):
                number = int((self.sources[:trained] == source).sum())
                start = epoch * self.counts[name]
                rows[name] += number
                tokens[name] += self.count_tokens(source, start + number) - self.count_tokens(source, start)
        sizes = {name: len(source) for name, source in self.rows.items()}
        return source_figures(prefix, rows, tokens, {name: rows[name] / sizes[name] for name in rows}, "repetitions")

    def count_tokens(self, source: int, rows: int) -> int:
        """Tokens of the first `rows` rows of a source, which may be several passes over it."""
        lengths = token_counts([*self.rows.values()][source])
        passes, rest = divmod(rows, len(lengths))
        return int(passes * lengths.sum() + (lengths[self.order(source, passes)[:rest]].sum() if rest else 0))


class CountMixedRows(TrainerCallback):
    """Counts the rows of each epoch that were trained on, from the steps: so a resumed run counts all of them."""

    def __init__(self, rows: MixedRows):
        self.rows = rows

    def on_train_begin(self, args: TrainingArguments, state, control, **kwargs):
        batch, accumulated = args.train_batch_size * args.world_size, args.gradient_accumulation_steps
        size = len(self.rows)
        batches = size // batch if args.dataloader_drop_last else math.ceil(size / batch)
        self.rows_per_step, self.steps_per_epoch = batch * accumulated, math.ceil(batches / accumulated)
        self.rows_per_epoch = min(batches * batch, size)

    def on_train_end(self, args, state, control, **kwargs):
        epochs, steps = divmod(state.global_step, self.steps_per_epoch)
        self.rows.trained = [*[self.rows_per_epoch] * epochs, min(steps * self.rows_per_step, self.rows_per_epoch)]


class MixedExamples:
    """Encoded examples of an epoch of a mixture, before they are packed together, and their counts.

    Args:
        features: encoded examples of each source.
        mixture: the shares.
        seed: draws the examples of a source, if an epoch does not need all, and those that it needs once more.

    Attributes:
        examples: those of the epoch.
    """

    def __init__(self, features: dict[str, Dataset], mixture: Mixture, seed: int):
        sizes = {name: len(source) for name, source in features.items()}
        counts, chosen = mixture.rows_of_an_epoch(sizes), []
        self.rows, self.tokens, self.repetitions = counts, {}, {name: counts[name] / sizes[name] for name in counts}
        for source, name in enumerate(features):
            passes, rest = divmod(counts[name], sizes[name])
            drawn = np.random.default_rng([seed, source]).permutation(sizes[name])[:rest]
            rows = np.concatenate([np.tile(np.arange(sizes[name]), passes), np.sort(drawn)])
            chosen.append(features[name].select(rows))
            self.tokens[name] = int(token_counts(features[name])[rows].sum())
        self.examples = concatenate_datasets(chosen)
        self.description = mixture.describe(sizes, counts, "examples")

    def metrics(self, prefix: str) -> dict[str, float]:
        """Examples and tokens of each source in an epoch, its share, and how often each example is in the epoch."""
        figures = source_figures(prefix, self.rows, self.tokens, self.repetitions, "repetitions")
        return {f"{prefix}_examples_of_an_epoch": len(self.examples)} | figures


class MixedStream(RankRows):
    """Endless packed rows of this rank from several streams, as `StreamedRows` of one.

    Args:
        streams: the rows of each source.
        shares: of each source, which add up to 1.
    """

    def __init__(self, streams: dict[str, StreamedRows], shares: dict[str, float]):
        first = next(iter(streams.values()))
        self.rank, self.ranks, self.batch_size = first.rank, first.ranks, first.batch_size
        self.streams, self.shares = streams, shares
        self.rows, self.tokens = dict.fromkeys(streams, 0), dict.fromkeys(streams, 0)  # that were trained on
        self.yielded: deque[tuple[str, int]] = deque()  # source and tokens of rows that were not trained on yet

    @property
    def facts(self) -> dict[str, Any]:
        """What must be equal for a resumed run to be the same run."""
        return {"mixture": self.shares, "sources": {name: stream.facts for name, stream in self.streams.items()}}

    @property
    def epoch(self) -> int:
        """Passes over the source that was read the fewest times."""
        return min(stream.epoch for stream in self.streams.values())

    def own_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of this rank, from the first one that is not consumed."""
        rows = {name: stream.own_rows() for name, stream in self.streams.items()}
        self.yielded.clear()
        # From `rank` on: one step has other sources on other ranks.
        start = self.rank + sum(self.rows.values())
        for source in islice(endless_order([*self.shares.values()]), start, None):
            name = [*self.streams][source]
            row = next(rows[name])
            self.yielded.append((name, len(row["input_ids"])))
            yield row

    def advance(self, consumed_rows: int) -> None:
        """Set how many rows of this rank were consumed since step 0."""
        for _ in range(consumed_rows - sum(self.rows.values())):
            name, tokens = self.yielded.popleft()
            self.rows[name] += 1
            self.tokens[name] += tokens
        for name, stream in self.streams.items():
            stream.advance(self.rows[name])

    def state(self) -> dict[str, Any]:
        """The position of each source, and the rows and tokens that were trained on."""
        streams = {name: stream.state() for name, stream in self.streams.items()}
        return {"streams": streams, "rows": self.rows, "tokens": self.tokens}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue at a position that `state` returned."""
        self.rows, self.tokens = state["rows"], state["tokens"]
        for name, stream in self.streams.items():
            stream.set_state(state["streams"][name])

    def callbacks(self) -> list[TrainerCallback]:
        """The callback that counts consumed rows and saves the position with each checkpoint."""
        return [TrackStream(self)]

    def metrics(self, prefix: str) -> dict[str, float]:
        """The counts of all sources together, as of one stream, and those of each source."""
        reports = {name: stream.metrics("") for name, stream in self.streams.items()}
        total = add_figures([*reports.values()])
        passes = {name: report["_epochs_completed"] for name, report in reports.items()}
        total["_epochs_completed"] = min(passes.values())
        ranks = gather_object([(self.rows, self.tokens)])
        rows, tokens = ({name: sum(counts[i][name] for counts in ranks) for name in self.streams} for i in (0, 1))
        figures = {f"{prefix}{name}": value for name, value in total.items()}
        return figures | source_figures(prefix, rows, tokens, passes, "epochs_completed")


def token_counts(rows: Dataset) -> np.ndarray:
    """Tokens of each row, (rows,)."""
    return np.concatenate([chunk.value_lengths().to_numpy() for chunk in column(rows, "input_ids").chunks])


def join_rows(sources: list[Dataset]) -> Dataset:
    """Join rows to evaluate on, those of token folders too, without the numbers of their documents."""
    rows = [rows.in_memory() if isinstance(rows, TokenRows) else rows for rows in sources]
    return concatenate_datasets([each.remove_columns([*{"documents"} & {*each.column_names}]) for each in rows])


def source_figures(
    prefix: str, rows: dict[str, int], tokens: dict[str, int], repetitions: dict[str, float], name: str
) -> dict[str, float]:
    """Figures of the sources under the names of the results files, e.g. `train_web_share`."""
    total, figures = sum(rows.values()), {}
    for source in rows:
        figures[f"{prefix}_{source}_rows"], figures[f"{prefix}_{source}_tokens"] = rows[source], tokens[source]
        figures[f"{prefix}_{source}_share"] = rows[source] / max(total, 1)
        figures[f"{prefix}_{source}_{name}"] = repetitions[source]
    return figures


def add_figures(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the counts of several sources; `packing_efficiency` is their mean over all rows, texts are the first's."""
    total = {name: value for report in reversed(reports) for name, value in report.items()}
    for name, value in total.items():
        if name.endswith("packing_efficiency"):
            rows = name.replace("packing_efficiency", "rows")
            filled = sum(report[name] * report[rows] for report in reports)
            total[name] = filled / sum(report[rows] for report in reports)
        elif isinstance(value, dict):
            total[name] = add_figures([report.get(name, {}) for report in reports])
        elif not isinstance(value, str):
            total[name] = sum(report.get(name, 0) for report in reports)
    return total


class MixtureReport:
    """The reports of the sources of a mixture as one: their figures are added up.

    Args:
        reports: of each source, those of encoding, packing or filling in the middle.
    """

    def __init__(self, reports: dict[str, list[Any]]):
        self.reports = reports

    def metrics(self, prefix: str) -> dict[str, Any]:
        """The counts under the names that the results files use."""
        figures = [{k: v for report in own for k, v in report.metrics(prefix).items()} for own in self.reports.values()]
        return add_figures(figures)
