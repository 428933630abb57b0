"""Rows packed while the text is read: data larger than the disk, without end, each rank with a share of its own.

A rank reads its documents in blocks of some megabytes, tokenizes and packs one while the one before is trained on, and
mixes its rows. The order of files and of the rows of a block is drawn from seed and epoch, so that where a rank stands
is an epoch, a place in the text and a row of a block: a checkpoint has these, and a resumed run goes on at that row.
"""

import copy
import json
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from transformers import TrainerCallback, TrainingArguments

from hf_llm.data.arrow import split_lists
from hf_llm.data.infilling import count_layouts
from hf_llm.data.packing import pack_batch
from hf_llm.files import write_text

logger = logging.getLogger(__name__)

BLOCK_CHARACTERS = 16_000_000  # of text: enough for full rows, and a second's work
# Stands in the slots of other ranks, where no row is used.
FILLER = {"input_ids": np.zeros(1, np.int32), "lengths": np.ones(1, np.int32)}
Convert = Callable[[list[str], np.random.Generator], pa.Table]


@dataclass
class Position:
    """Where a rank stands: at the beginning of a block of texts.

    Args:
        epoch: passes over the data that are behind it.
        block: blocks of this epoch that are behind it.
        reader: what `datasets` needs to go on reading there.
        rows: packed rows of this rank before it, in all epochs.
        counts: documents, tokens and so on before it.
    """

    epoch: int = 0
    block: int = 0
    reader: dict | None = None
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class StreamedRows(torch.utils.data.IterableDataset):
    """Packed rows of this rank, without end, for a stock Trainer with `dispatch_batches=False`.

    accelerate lets every rank run through the rows of all ranks and take its batches; here the others' places are
    filled with nothing, and each rank reads and tokenizes its own text alone.

    Args:
        documents: rows `{"text": str}`.
        convert: texts and a random generator -> a table with `input_ids`, one row a document.
        max_length, packing: as for `pack`.
        seed: of the order.
        batch_size: rows that a rank takes in a row.
        facts: what must be equal for a resumed run to be the same.
    """

    def __init__(
        self,
        documents: IterableDataset,
        convert: Convert,
        max_length: int,
        packing: bool,
        seed: int,
        batch_size: int,
        facts: dict[str, Any],
    ):
        self.documents, self.convert, self.max_length, self.packing = documents, convert, max_length, packing
        self.seed, self.batch_size, self.facts = seed, batch_size, facts
        ranks = PartialState()
        self.rank, self.ranks = ranks.process_index, ranks.num_processes
        if documents.num_shards < self.ranks:
            logger.warning(
                f"{documents.num_shards} files for {self.ranks} ranks: each reads all of them, and uses its share"
            )
        self.start, self.trained = Position(), 0  # rows that were trained on
        # Blocks that are being trained on or taken by the data loader, and the counts with those of the block.
        self.begun: list[tuple[Position, Counter]] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        own = self.own_rows()
        if self.ranks == 1:
            yield from own
        while True:
            for rank in range(self.ranks):
                yield from islice(own, self.batch_size) if rank == self.rank else repeat(FILLER, self.batch_size)

    def own_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of this rank, from the first that was not trained on.

        Raises:
            ValueError: this rank, maybe alone, finds a file that cannot be read, or no text.
        """
        trained, blocks = self.trained, self.blocks(self.start)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(next, blocks)
            while True:
                try:
                    position, rows, counts = following.result()
                except ValueError as error:
                    error.of_one_rank = True  # or only rank 0 would say its errors
                    raise
                following = pool.submit(next, blocks)
                self.begun.append((position, counts))
                yield from islice(rows, max(0, trained - position.rows), None)

    def blocks(self, position: Position) -> Iterator[tuple[Position, list[dict[str, Any]], Counter]]:
        """Each block's position, its rows and the counts up to its end, from `position` on."""
        while True:
            begun = position
            for texts, reader in self.read(position):
                rows, counts = self.rows_of(texts, position)
                yield position, rows, counts
                position = Position(position.epoch, position.block + 1, reader, position.rows + len(rows), dict(counts))
            if position is begun and not position.block:
                raise ValueError(
                    f"rank {self.rank} of {self.ranks} finds no text of its own: give more documents or fewer ranks"
                )
            position = Position(position.epoch + 1, 0, None, position.rows, position.counts)

    def read(self, position: Position) -> Iterator[tuple[list[str], dict]]:
        """This rank's texts of the rest of an epoch, a block at a time, and what is needed to read on behind each."""
        # A buffer of one row mixes no rows, which nobody could resume, but the files.
        files = self.documents.shuffle(seed=self.seed + position.epoch, buffer_size=1, max_buffer_input_shards=1)
        # Whole files, whatever their number, so that no rank reads another's; ranks need not end an epoch together.
        strategy = "shards" if files.num_shards >= self.ranks else "examples"
        reader = split_dataset_by_node(files, self.rank, self.ranks, strategy)
        if position.reader:
            logging.getLogger("datasets.iterable_dataset").setLevel(logging.ERROR)  # warns of the buffer's contents
            reader.load_state_dict(position.reader)
        texts, size = [], 0
        for row in reader:
            texts.append(row["text"] or "")
            size += len(texts[-1])
            if size >= BLOCK_CHARACTERS:
                yield texts, copy.deepcopy(reader.state_dict())
                texts, size = [], 0
        if texts:
            yield texts, copy.deepcopy(reader.state_dict())

    def rows_of(self, texts: list[str], position: Position) -> tuple[list[dict[str, Any]], Counter]:
        """A block's rows in the order in which they are trained on, and the counts up to its end."""
        draw = np.random.default_rng([self.seed, position.epoch, self.rank, position.block])
        whole = [text for text in texts if text and not text.isspace()]
        counts = Counter(position.counts) + Counter(empty_documents=len(texts) - len(whole))
        if not whole:
            return [], counts
        table = self.convert(whole, draw)
        packed = pack_batch(table.select(["input_ids"]), self.max_length, self.packing)
        lengths = table["input_ids"].combine_chunks().value_lengths().to_numpy()
        documents = {"documents": len(table), "documents_cut": int((lengths > self.max_length).sum())}
        if "layout" in table.column_names:
            documents = count_layouts(table["layout"].to_numpy(), table["piece"].to_numpy())
        counts += Counter(
            **documents,
            rows=len(packed),
            tokens_in=int(lengths.sum()),
            tokens_packed=len(packed["input_ids"].combine_chunks().flatten()),
        )
        order = draw.permutation(len(packed))
        columns = [split_lists(packed[name].combine_chunks()) for name in ("input_ids", "lengths")]
        rows = [{"input_ids": columns[0][i], "lengths": columns[1][i], "epoch": position.epoch} for i in order]
        return rows, counts

    def advance(self, trained: int) -> None:
        """Take note of how many rows were trained on; blocks that are behind them are forgotten."""
        self.trained = trained
        place = bisect_right(self.begun, trained, key=lambda block: block[0].rows) - 1
        del self.begun[: max(0, place)]

    def now(self) -> tuple[Position, Counter]:
        """The block that is being trained on, and the counts up to its end."""
        return self.begun[0] if self.begun else (self.start, Counter(self.start.counts))

    def save(self, folder: Path) -> None:
        """Write where this rank stands."""
        state = {"trained": self.trained, "position": asdict(self.now()[0])}
        write_text(folder / f"stream-{self.rank}.json", json.dumps(state) + "\n")

    def load(self, checkpoint: str) -> None:
        """Go on from where this rank stood."""
        state = json.loads((Path(checkpoint) / f"stream-{self.rank}.json").read_text(encoding="utf-8"))
        self.trained, self.start = state["trained"], Position(**state["position"])

    def callbacks(self) -> list[TrainerCallback]:
        """The callback that counts consumed rows and saves the position with each checkpoint."""
        return [FollowStream(self)]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Counts of all blocks that were begun, on all ranks together, under the names of the results files."""
        position, counts = self.now()
        if not self.begun:  # resumed where no step was left
            _, _, counts = next(self.blocks(self.start))
        ranks = gather_object([{"epoch": position.epoch, **counts}])
        total = Counter()
        for of_rank in ranks:
            total.update({name: count for name, count in of_rank.items() if name != "epoch"})
        total["tokens_dropped"] = total["tokens_in"] - total["tokens_packed"]
        figures = {name: total[name] for name in ("documents", "documents_cut", "rows", "tokens_in", "tokens_packed")}
        figures |= dict(total) | {"packing_efficiency": total["tokens_packed"] / (total["rows"] * self.max_length)}
        figures |= {"epochs_completed": min(of_rank["epoch"] for of_rank in ranks)}
        return {f"{prefix}_{name}": value for name, value in figures.items()}


class FollowStream(TrainerCallback):
    """Tells the stream how many of its rows were trained on, and lets it write where it stands into checkpoints."""

    def __init__(self, rows: StreamedRows):
        self.rows = rows

    def on_step_end(self, args: TrainingArguments, state, control, **kwargs):
        self.rows.advance(state.global_step * args.gradient_accumulation_steps * args.train_batch_size)

    def on_save(self, args: TrainingArguments, state, control, **kwargs):
        self.rows.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_log(self, args: TrainingArguments, state, control, logs=None, **kwargs):
        # The Trainer's epoch of a stream is a share of `max_steps`.
        logs["epoch"] = state.log_history[-1]["epoch"] = self.rows.now()[0].epoch


def head(documents: IterableDataset, number: int) -> Dataset:
    """The first documents with text, as a data set in memory.

    Raises:
        ValueError: there are none.
    """
    texts = (row["text"] for row in documents)
    first = list(islice((text for text in texts if text and not text.isspace()), number))
    if not first:
        raise ValueError("`train` has no text: check --dataset_text_field")
    return Dataset.from_dict({"text": first})
