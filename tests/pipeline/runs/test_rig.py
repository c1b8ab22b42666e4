"""Differences between the rig of shards and that of a run's training shards."""

import pytest

from helpers.run_manifests import run_manifest
from helpers.samples import VIEWS, write_shard_set
from smile_pipe.pipeline.rendering.cameras import View
from smile_pipe.pipeline.runs.rig import rig_differences
from smile_pipe.shards.manifest import ShardManifest

SETTINGS = {"size": 16, "views": [view.model_dump() for view in VIEWS], "projection": "perspective", "samples": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardManifest:
    root = tmp_path_factory.mktemp("rig") / "shards"
    write_shard_set(root, num_subjects=1, channels=("rgb",))
    return ShardManifest.read(root / "manifest.json")


def differences(shards: ShardManifest, trained_on="0" * 32, **changes) -> tuple[str, ...]:
    run = run_manifest(trained_on).model_copy(
        update={"views": tuple(view.name for view in VIEWS), "settings": SETTINGS}
    )
    settings = SETTINGS | changes
    views = tuple(view["name"] for view in settings["views"])
    update = {"settings": settings, "views": views, "image_size": settings["size"]}
    return rig_differences(run, shards.model_copy(update=update))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"views": SETTINGS["views"][::-1]}, ()),
        ({"channels": ["rgb"], "renderer": "pytorch3d"}, ()),
        ({"size": 24}, ("images of 24 px (training: 16 px)",)),
        ({"projection": "orthographic"}, ("projection orthographic (training: perspective)",)),
        ({"samples": 4}, ("samples per pixel 4 (training: 1)",)),
        ({"jitter_deg": 5.0}, ("degrees of camera jitter 5.0 (training: 0.0)",)),
        ({"views": SETTINGS["views"][:1]}, ("views front (training: front, left, right)",)),
        (
            {"views": [View(name="front", pitch=10).model_dump(), *SETTINGS["views"][1:]], "size": 24},
            ("view front at yaw 0, pitch 10 (training: yaw 0, pitch 0)", "images of 24 px (training: 16 px)"),
        ),
    ],
)
def test_each_difference_is_described(shards, changes, expected):
    assert differences(shards, **changes) == expected


def test_training_shards_have_none(shards):
    assert differences(shards, trained_on=shards.fingerprint, size=24) == ()


def test_manifests_without_settings_are_compared_by_their_views(shards):
    run = run_manifest("0" * 32)
    assert rig_differences(run, shards) == ("views front, left, right (training: front)",)
