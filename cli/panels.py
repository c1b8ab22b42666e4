"""Panels of the help pages: which option is in which panel, in their order. A name means the same in all commands."""

COMMON = "Common options"

PANELS = {
    "Input": "data_dir run scans target directory shards train_on test_on fit_on key layout subjects expressions "
    "levels where split split_protocol subset num_subjects kind face_model",
    "Geometry of scans": "up axes units landmarks",
    "Views": "rig yaw size projection supersample jitter_deg jitter_seed channels renderer variant jpeg texture_size",
    "Sequences": "sequence frame_rate frames window magnify temporal temporal_pooling max_frames",
    "Text": "text neutral prompts examples knowledge pseudo_start metadata head",
    "Model": "recipe drop_loss crit arch pretrained channel ema",
    "Optimisation": "epochs batch_size learning_rate warmup weight_decay sampling shard_weights steps scenes_per_step "
    "grad_cache_chunks precision val_fraction seed",
    "Evaluation": "protocol reference finetune_epochs",
    "Output": "out dry_run resume save_views open_clip onnx embeddings preview curves markdown samples_per_shard "
    "keep_checkpoints save_every wandb retry_failed verify_sources quick limit on_bad_shard",
    "Server": "host port open_browser max_upload_mb",
    "Resources": "use_gpu num_workers workers workers_per_gpu cpus_per_worker cores_per_fold partitions address "
    "max_frames_without_ray sample_timeout sample_memory checkpoint_activations compile cache_mb cache_dir cache_gb",
}

_PANEL_OF = {field: panel for panel, fields in PANELS.items() for field in fields.split()}
_OWN = {
    # Of the frames of a sequence; in `train` of samples.
    ("render", "sampling"): "Sequences",
    ("evaluate", "seed"): "Evaluation",
    ("evaluate", "batch_size"): "Resources",
    ("export", "batch_size"): "Resources",
    ("synth", "seed"): "Input",
}


def panel_of(command: str, field: str) -> str:
    """Return the panel of an option; "Options" for one that has none."""
    return _OWN.get((command, field)) or _PANEL_OF.get(field, "Options")


def panel_order(panel: str) -> int:
    """Return the position of a panel on the page."""
    return [*PANELS, "Options", COMMON].index(panel)
