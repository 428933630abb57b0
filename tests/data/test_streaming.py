"""A stream yields every document once per epoch, each on one rank, and resumes at exactly the row where it stopped."""

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from accelerate.data_loader import IterableDatasetShard
from datasets import Features, IterableDataset, Value
from recipe_runs import flags

from hf_llm.data import streaming
from hf_llm.data.arrow import token_table
from hf_llm.data.streaming import StreamedRows, StreamPosition, first_documents
from hf_llm.data.tokenization import document_engine
from hf_llm.data.vocabulary import train_tokenizer

ROOT = Path(__file__).parent.parent.parent
TEXTS = [f"Document {i} counts {' '.join(str(n) for n in range(i % 9))}, then it ends." for i in range(90)]


def new_tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300)


READ = []


def read(paths):
    for path in paths:
        READ.append(path)
        for line in Path(path).read_text().splitlines():
            yield {"text": json.loads(line)["text"]}


def new_stream(paths, tokenizer, rank=None, ranks=2, batch_size=2, max_length=64):
    """A stream of .jsonl files; `rank` and `ranks` override those of the process."""
    features = Features({"text": Value("string")})
    documents = IterableDataset.from_generator(read, features, {"paths": [str(path) for path in paths]})
    _, encode = document_engine(tokenizer, TEXTS)
    rows = StreamedRows(
        documents, lambda texts, draw: token_table(*encode(texts)), max_length, True, 7, batch_size, {"data": "these"}
    )
    if rank is not None:
        rows.rank, rows.ranks = rank, ranks
    return rows


def write_files(folder, number, texts=TEXTS):
    """Write the texts into files of unequal sizes, the first of which also holds an empty text."""
    borders = np.linspace(0, 1, number + 1) ** 2 * len(texts)
    for index, (start, stop) in enumerate(zip(borders[:-1].astype(int), borders[1:].astype(int), strict=True)):
        lines = [*texts[start:stop], *([" "] if index == 0 else [])]
        (folder / f"{index}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    return sorted(folder.glob("*.jsonl"))


def documents_of(rows, tokenizer, epochs):
    """(epoch, text) of every document of the first `epochs`, in the order of the rows."""
    documents = []
    for row in rows:
        if row["epoch"] >= epochs:
            return documents
        pieces = np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1])
        documents += [(row["epoch"], tokenizer.decode(piece, skip_special_tokens=True)) for piece in pieces]
    return documents


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So small that an epoch has several blocks."""
    monkeypatch.setattr(streaming, "BLOCK_CHARACTERS", 700)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("files", [1, 2, 4, 6])
def test_every_document_comes_once_per_epoch_on_one_rank(files, ranks, tokenizer, tmp_path):
    """With fewer and more files than ranks; the second epoch has another order."""
    paths = write_files(tmp_path, files)
    streams = [new_stream(paths, tokenizer, rank, ranks) for rank in range(ranks)]
    documents = [documents_of(stream.own_rows(), tokenizer, 2) for stream in streams]
    assert Counter(document for rank_documents in documents for document in rank_documents) == {
        (epoch, text): 1 for epoch in (0, 1) for text in TEXTS
    }
    first, second = ([text for at, text in documents[0] if at == epoch] for epoch in (0, 1))
    assert first != second
    # Nothing was consumed, so no block is forgotten: their counts have the empty text once per epoch.
    empty = sum(counts["empty_documents"] for stream in streams for position, counts in stream.open_blocks[-1:])
    assert empty >= 2


def test_rows_are_mixed_within_a_block(tokenizer, tmp_path):
    """The rows of an epoch are not in the order of the file."""
    stream = new_stream(write_files(tmp_path, 1), tokenizer, 0, 1)
    texts = [text for _, text in documents_of(stream.own_rows(), tokenizer, 1)]
    assert texts != TEXTS and sorted(texts) == sorted(TEXTS)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("files", [1, 4])
def test_a_resumed_stream_starts_at_the_first_row_that_was_not_trained_on(files, ranks, tokenizer, tmp_path):
    """At any row of three epochs, without reading earlier blocks again."""
    paths = write_files(tmp_path, files)
    whole = list(islice(new_stream(paths, tokenizer, 0, ranks).own_rows(), 60 if ranks == 1 else 30))
    draw = random.Random(0)
    for consumed in (0, 1, *(draw.randrange(len(whole) - 5) for _ in range(12))):
        stopped = new_stream(paths, tokenizer, 0, ranks)
        for _ in islice(stopped.own_rows(), consumed + 3):  # the data loader fetches some rows ahead
            pass
        stopped.advance(consumed)
        stopped.save(tmp_path)
        resumed = new_stream(paths, tokenizer, 0, ranks)
        resumed.load(str(tmp_path))
        assert resumed.start.rows <= consumed
        rows = list(islice(resumed.own_rows(), len(whole) - consumed))
        assert resumed.open_blocks[0][0] == stopped.current_block()[0]
        for row, expected in zip(rows, whole[consumed:], strict=True):
            assert np.array_equal(row["input_ids"], expected["input_ids"]) and row["epoch"] == expected["epoch"]


def test_accelerate_hands_each_rank_its_own_rows_and_no_filler(tokenizer, tmp_path):
    """accelerate's own sharding keeps the slots of one rank out of the stream of all."""
    paths = write_files(tmp_path, 3)
    for rank in (0, 1):
        own = list(islice(new_stream(paths, tokenizer, rank).own_rows(), 20))
        stream = new_stream(paths, tokenizer, rank)
        taken = islice(IterableDatasetShard(stream, batch_size=2, num_processes=2, process_index=rank), 20)
        assert [row["input_ids"].tolist() for row in taken] == [row["input_ids"].tolist() for row in own]


def test_two_real_ranks_see_the_data_once_an_epoch(processes, tokenizer, tmp_path):
    """Through the stock Trainer's data loader, in two processes, over two epochs."""
    paths = write_files(tmp_path, 3)
    run = processes.fork([ROOT / "tests" / "stream_ranks.py", tmp_path, tmp_path / "seen", 2], tmp_path, ranks=2)
    assert run.status == 0, run.stderr
    ranks = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert all(len(documents) > 40 for documents in ranks) and len(paths) == 3
    assert Counter(tuple(document) for documents in ranks for document in documents) == {
        (epoch, text): 1 for epoch in (0, 1) for text in TEXTS
    }


def test_every_token_is_counted(tokenizer, tmp_path):
    """Up to the end of the current block: documents, cut and empty ones, rows and tokens; no token is dropped."""
    stream = new_stream(write_files(tmp_path, 1), tokenizer, 0, 1, max_length=16)
    rows = list(islice(stream.own_rows(), 200))
    second = next(i for i, row in enumerate(rows) if row["epoch"] == 1)
    stream.advance(second - 1)
    figures = stream.metrics("train")
    assert figures["train_epochs_completed"] == 0 and figures["train_documents"] == len(TEXTS)
    assert figures["train_tokens_in"] == sum(len(tokenizer(text).input_ids) + 1 for text in TEXTS)
    stream.advance(second)
    figures = stream.metrics("train")
    assert figures["train_epochs_completed"] == 1 == figures["train_empty_documents"]
    assert figures["train_tokens_in"] == figures["train_tokens_packed"]
    assert figures["train_tokens_dropped"] == 0 < figures["train_documents_cut"]
    assert 0.5 < figures["train_packing_efficiency"] <= 1


def test_a_rank_without_text_says_so(processes, tiny_base, tmp_path):
    """It would search forever; its error is printed although it is not rank 0."""
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": TEXTS[8]}) + "\n")
    settings = {"train_file": "train.jsonl", "validation_file": "validation.jsonl", "model_name_or_path": tiny_base}
    settings |= {"streaming": True, "max_steps": 2, "max_length": 16, "output_dir": "out"}
    recipe = [ROOT / "recipes" / "pretrain.py", *flags(settings)]
    run = processes.fork(recipe, tmp_path, ranks=2)
    assert run.status == 1
    assert "error: rank 1 of 2 finds no text of its own: give more documents or fewer ranks" in run.stderr


def test_blocks_that_were_trained_on_are_forgotten(tokenizer, tmp_path):
    """So the memory of a long run does not grow."""
    stream = new_stream(write_files(tmp_path, 1), tokenizer, 0, 1)
    for number, _ in enumerate(islice(stream.own_rows(), 300)):
        stream.advance(number)
        assert len(stream.open_blocks) <= 2


def test_no_rank_reads_another_ones_files(tokenizer, tmp_path, caplog, monkeypatch):
    """With as many files as ranks or more, also where the numbers do not divide; fewer files give a warning."""
    paths, by_rank = write_files(tmp_path, 5), []
    for rank in range(3):
        READ.clear()
        for _ in new_stream(paths, tokenizer, rank, 3).read_texts(StreamPosition()):
            pass
        by_rank.append(set(READ))
    assert all(by_rank) and sum(map(len, by_rank)) == len(set.union(*by_rank)) == 5
    with caplog.at_level("WARNING", "hf_llm"):
        monkeypatch.setattr(PartialState(), "num_processes", 6)
        new_stream(paths, tokenizer)
    assert "5 files for 6 ranks: each reads all of them" in caplog.text


def test_the_first_texts_are_those_with_text():
    """Empty texts are skipped; a dataset with no other texts is an error."""
    texts = [" ", None, "a", "b"]
    documents = IterableDataset.from_generator(lambda texts: ({"text": text} for text in texts), None, {"texts": texts})
    assert first_documents(documents, 1)["text"][:] == ["a"]
    with pytest.raises(ValueError, match="`train` has no text"):
        first_documents(documents.take(2), 5)


def test_a_position_survives_json():
    """A checkpoint stores it as JSON."""
    position = StreamPosition(1, 2, {"shard_idx": 3}, 4, {"rows": 5})
    assert StreamPosition(**json.loads(json.dumps(vars(position)))) == position
