"""The training stage: data selection, training loop, checkpoints and the job on Ray."""
