"""One of several ranks that read a stream through the Trainer's own data loader.

    torchrun --nproc_per_node 2 tests/stream_ranks.py FOLDER OUTPUT EPOCHS

Writes `OUTPUT-RANK.json`: [epoch, text] of each document of the first EPOCHS epochs, in the order of training.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "data"))

from test_streaming import new_stream, new_tokenizer
from tiny import new_model
from transformers import Trainer, TrainingArguments

if __name__ == "__main__":
    folder, output, epochs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    args = TrainingArguments(
        str(folder / "out"),
        per_device_train_batch_size=3,
        max_steps=1,
        use_cpu=True,
        remove_unused_columns=False,
        report_to="none",
        accelerator_config={"dispatch_batches": False},
    )
    tokenizer = new_tokenizer()
    rows = new_stream(sorted(folder.glob("*.jsonl")), tokenizer, batch_size=3)
    trainer = Trainer(new_model(), args, train_dataset=rows, data_collator=lambda batch: {"rows": batch})
    seen = []
    for batch in trainer.get_train_dataloader():
        for row in batch["rows"]:
            if row["epoch"] < epochs:
                ends = row["lengths"].cumsum()
                pieces = [row["input_ids"][start:end] for start, end in zip([0, *ends], ends, strict=False)]
                seen += [(row["epoch"], tokenizer.decode(piece, skip_special_tokens=True)) for piece in pieces]
        if batch["rows"][-1]["epoch"] >= epochs and rows.open_blocks[-1][0].epoch > epochs:
            break
    Path(f"{output}-{rows.rank}.json").write_text(json.dumps(seen))
