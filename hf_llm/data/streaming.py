"""Packed rows for training that are made while the text is read: for data larger than the disk, without an end.

Each rank reads its own documents in blocks of some megabytes, tokenizes and packs one block while the one before is
trained on, and mixes the rows of a block. The order of files and of the rows of a block is drawn from seed and epoch.
So the position of a rank is an epoch, a block, the state of the reader and a number of rows: these are saved with a
checkpoint, and a resumed run continues at exactly that row.
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
from hf_llm.mappings import read_json_file

logger = logging.getLogger(__name__)

BLOCK_CHARACTERS = 16_000_000  # of text: enough to fill rows well, and about a second's work
# Takes the slots of other ranks, where accelerate uses no row.
FILLER = {"input_ids": np.zeros(1, np.int32), "lengths": np.ones(1, np.int32)}
Convert = Callable[[list[str], np.random.Generator], pa.Table]


@dataclass
class StreamPosition:
    """The position of a rank in its stream, at the start of a block. The names of the fields are those in checkpoints.

    Args:
        epoch: passes over the data before it.
        block: blocks of this epoch before it.
        reader: state of the `datasets` reader; None: the beginning of the data.
        rows: packed rows of this rank before it, in all epochs.
        counts: documents, tokens and so on before it.
    """

    epoch: int = 0
    block: int = 0
    reader: dict | None = None
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class RankRows(torch.utils.data.IterableDataset):
    """Endless packed rows of this rank, for a stock Trainer with `dispatch_batches=False`.

    accelerate makes every rank iterate over the rows of all ranks and keep its own batches. Each rank therefore yields
    a filler in the slots of the others, and reads and tokenizes its own text only. Rank 1 of 2 with `batch_size` 2
    yields: filler, filler, row 0, row 1, filler, filler, row 2, row 3 and so on.
    """

    rank: int
    ranks: int
    batch_size: int  # rows of a micro-batch, which a rank takes one after the other

    def __iter__(self) -> Iterator[dict[str, Any]]:
        own = self.own_rows()
        if self.ranks == 1:
            yield from own
        while True:
            for rank in range(self.ranks):
                yield from islice(own, self.batch_size) if rank == self.rank else repeat(FILLER, self.batch_size)

    def own_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of this rank, from the first one that is not consumed."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """The position of this rank, for a checkpoint."""
        raise NotImplementedError

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue at a position that `state` returned."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the position of this rank to `stream-RANK.json`."""
        write_text(folder / f"stream-{self.rank}.json", json.dumps(self.state()) + "\n")

    def load(self, checkpoint: str) -> None:
        """Continue at the position of this rank that `save` wrote into a checkpoint."""
        self.set_state(read_json_file(Path(checkpoint) / f"stream-{self.rank}.json"))


class StreamedRows(RankRows):
    """Endless packed rows of this rank from one stream of documents.

    Args:
        documents: rows `{"text": str}`.
        convert: makes of texts and a random generator a table with the column `input_ids`, one row per document.
        max_length: tokens of a row.
        packing: as for `pack`.
        seed: determines the order of files and rows.
        batch_size: rows of a micro-batch, which a rank takes one after the other.
        facts: what must be equal for a resumed run to be the same run.
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
        self.start, self.consumed_rows = StreamPosition(), 0  # consumed: trained on, by this rank, in all epochs
        # Blocks that are trained on or fetched ahead by the data loader: start, and counts up to the end of the block.
        self.open_blocks: list[tuple[StreamPosition, Counter]] = []

    def own_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of this rank, from the first one that is not consumed.

        Raises:
            ValueError: a file that this rank reads is broken, or this rank has no text.
        """
        consumed, blocks = self.consumed_rows, self.blocks(self.start)
        with ThreadPoolExecutor(1) as pool:
            next_block = pool.submit(next, blocks)
            while True:
                try:
                    position, rows, counts = next_block.result()
                except ValueError as error:
                    error.of_one_rank = True  # so that this rank prints it, see `exit_with_error`
                    raise
                next_block = pool.submit(next, blocks)
                self.open_blocks.append((position, counts))
                yield from islice(rows, max(0, consumed - position.rows), None)

    def blocks(self, position: StreamPosition) -> Iterator[tuple[StreamPosition, list[dict[str, Any]], Counter]]:
        """Yield each block from `position` on: its start, its rows, and the counts up to its end."""
        while True:
            epoch_start = position
            for texts, reader in self.read_texts(position):
                rows, counts = self.pack_block(texts, position)
                yield position, rows, counts
                position = StreamPosition(
                    position.epoch, position.block + 1, reader, position.rows + len(rows), dict(counts)
                )
            if position is epoch_start and not position.block:
                raise ValueError(
                    f"rank {self.rank} of {self.ranks} finds no text of its own: give more documents or fewer ranks"
                )
            position = StreamPosition(position.epoch + 1, 0, None, position.rows, position.counts)

    def read_texts(self, position: StreamPosition) -> Iterator[tuple[list[str], dict]]:
        """Yield this rank's texts from `position` to the end of the epoch, a block at a time.

        Each with the state of the reader after the block.
        """
        # Mixes the files only: with a buffer of one row no rows are mixed, because a full buffer cannot be resumed.
        files = self.documents.shuffle(seed=self.seed + position.epoch, buffer_size=1, max_buffer_input_shards=1)
        # "shards" gives whole files to ranks, also unevenly, so that no rank reads the files of another.
        strategy = "shards" if files.num_shards >= self.ranks else "examples"
        reader = split_dataset_by_node(files, self.rank, self.ranks, strategy)
        if position.reader:
            # Hides the warning that the contents of the shuffle buffer are lost, which is a buffer of one row.
            logging.getLogger("datasets.iterable_dataset").setLevel(logging.ERROR)
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

    def pack_block(self, texts: list[str], position: StreamPosition) -> tuple[list[dict[str, Any]], Counter]:
        """Make the rows of a block, in the order in which they are trained on, and the counts up to its end."""
        generator = np.random.default_rng([self.seed, position.epoch, self.rank, position.block])
        documents = [text for text in texts if text and not text.isspace()]
        counts = Counter(position.counts) + Counter(empty_documents=len(texts) - len(documents))
        if not documents:
            return [], counts
        table = self.convert(documents, generator)
        packed = pack_batch(table.select(["input_ids"]), self.max_length, self.packing)
        lengths = table["input_ids"].combine_chunks().value_lengths().to_numpy()
        document_counts = {"documents": len(table), "documents_cut": int((lengths > self.max_length).sum())}
        if "layout" in table.column_names:
            document_counts = count_layouts(table["layout"].to_numpy(), table["piece"].to_numpy())
        counts += Counter(
            **document_counts,
            rows=len(packed),
            tokens_in=int(lengths.sum()),
            tokens_packed=len(packed["input_ids"].combine_chunks().flatten()),
        )
        order = generator.permutation(len(packed))
        columns = [split_lists(packed[name].combine_chunks()) for name in ("input_ids", "lengths")]
        rows = [{"input_ids": columns[0][i], "lengths": columns[1][i], "epoch": position.epoch} for i in order]
        return rows, counts

    def advance(self, consumed_rows: int) -> None:
        """Set how many rows of this rank were consumed since step 0, and forget the blocks before the current one."""
        self.consumed_rows = consumed_rows
        current = bisect_right(self.open_blocks, consumed_rows, key=lambda block: block[0].rows) - 1
        del self.open_blocks[: max(0, current)]

    def current_block(self) -> tuple[StreamPosition, Counter]:
        """The start of the block that is trained on, and the counts up to its end."""
        return self.open_blocks[0] if self.open_blocks else (self.start, Counter(self.start.counts))

    def state(self) -> dict[str, Any]:
        """The number of consumed rows, and the position at the start of the current block."""
        return {"trained": self.consumed_rows, "position": asdict(self.current_block()[0])}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue at a position that `state` returned."""
        self.consumed_rows, self.start = state["trained"], StreamPosition(**state["position"])

    @property
    def epoch(self) -> int:
        """Passes over the data before the current block."""
        return self.current_block()[0].epoch

    def callbacks(self) -> list[TrainerCallback]:
        """The callback that counts consumed rows and saves the position with each checkpoint."""
        return [TrackStream(self)]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Counts up to the current block, summed over the ranks, under the names in the results files."""
        position, counts = self.current_block()
        if not self.open_blocks:  # resumed with no step left to train
            _, _, counts = next(self.blocks(self.start))
        ranks = gather_object([{"epoch": position.epoch, **counts}])
        total = Counter()
        for rank_counts in ranks:
            total.update({name: count for name, count in rank_counts.items() if name != "epoch"})
        total["tokens_dropped"] = total["tokens_in"] - total["tokens_packed"]
        figures = {name: total[name] for name in ("documents", "documents_cut", "rows", "tokens_in", "tokens_packed")}
        figures |= dict(total) | {"packing_efficiency": total["tokens_packed"] / (total["rows"] * self.max_length)}
        figures |= {"epochs_completed": min(rank_counts["epoch"] for rank_counts in ranks)}
        return {f"{prefix}_{name}": value for name, value in figures.items()}


class TrackStream(TrainerCallback):
    """Tell the stream after each step how many rows are consumed, and save its position with each checkpoint."""

    def __init__(self, rows):
        self.rows = rows

    def on_step_end(self, args: TrainingArguments, state, control, **kwargs):
        self.rows.advance(state.global_step * args.gradient_accumulation_steps * args.train_batch_size)

    def on_save(self, args: TrainingArguments, state, control, **kwargs):
        self.rows.save(Path(f"{args.output_dir}/checkpoint-{state.global_step}"))

    def on_log(self, args: TrainingArguments, state, control, logs, **kwargs):
        # For rows without a length the Trainer logs the share of `max_steps` as the epoch.
        logs["epoch"] = state.log_history[-1]["epoch"] = self.rows.epoch


def first_documents(documents: IterableDataset, number: int) -> Dataset:
    """The first `number` documents that are not empty, as a dataset in memory.

    Raises:
        ValueError: all documents are empty.
    """
    texts = (row["text"] for row in documents)
    first = list(islice((text for text in texts if text and not text.isspace()), number))
    if not first:
        raise ValueError("`train` has no text: check --dataset_text_field")
    return Dataset.from_dict({"text": first})
