"""The directory of a training run: its manifests, checkpoints, metrics and cards."""
