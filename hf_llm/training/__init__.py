"""What surrounds the Trainer: objectives, the run, checkpoints, throughput."""
