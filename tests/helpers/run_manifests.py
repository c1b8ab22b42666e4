"""The manifest of a run, without training."""

from smile_pipe.pipeline.runs.run_manifest import RunManifest


def run_manifest(shards_fingerprint: str) -> RunManifest:
    return RunManifest(
        fingerprint="0123456789abcdef",
        shards_fingerprint=shards_fingerprint,
        config={},
        recipe={},
        channel="rgb",
        settings={},
        prompts={},
        temporal="none",
        max_frames=16,
        views=("front",),
        text_source="label",
        classes=("HA", "SA"),
        split="kfold:3:0",
        where=None,
        train_subjects=("F0001",),
        test_subjects=("F0002",),
        num_train_samples=6,
        num_train_sequences=0,
        num_skipped=1,
        num_steps=8,
        world_size=1,
        precision="float32",
        final_losses={},
        checkpoint="step-000004",
    )
