"""Compare the rig of shards with the one that a run was trained on: scores on another rig are not those of the run."""

import logging
from collections.abc import Mapping
from typing import Any

from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.manifest import ShardManifest

# Settings of all cameras, with their defaults, as a render records them.
_SETTINGS = {
    "projection": ("projection", "perspective"),
    "samples": ("samples per pixel", 1),
    "jitter_deg": ("degrees of camera jitter", 0.0),
    "data_version": ("version of alignment and images", None),
}

_log = logging.getLogger(__name__)


def rig_differences(run: RunManifest, shards: ShardManifest) -> tuple[str, ...]:
    """Describe how the cameras and images of shards differ from those of a run's training shards; empty if they do not.

    Args:
        run: the run.
        shards: manifest of the shards.
    """
    if shards.fingerprint == run.shards_fingerprint:
        return ()
    found = []
    if set(shards.views) != set(run.views):
        found.append(f"views {', '.join(shards.views)} (training: {', '.join(run.views)})")
    ours, theirs = _angles(run.settings), _angles(shards.settings)
    for name in (name for name in shards.views if name in ours and name in theirs and ours[name] != theirs[name]):
        found.append(f"view {name} at {_describe(theirs[name])} (training: {_describe(ours[name])})")
    size = run.settings.get("size")
    if size not in (None, shards.image_size):
        found.append(f"images of {shards.image_size} px (training: {size} px)")
    for name, (words, default) in _SETTINGS.items():
        value, trained = (settings.get(name, default) for settings in (shards.settings, run.settings))
        if value != trained:
            found.append(f"{words} {value} (training: {trained})")
    return tuple(found)


def warn_on_other_rig(differences: tuple[str, ...]) -> None:
    """Log a warning if there are differences."""
    if differences:
        _log.warning("the run was trained on another rig than that of the shards: %s", "; ".join(differences))


def _angles(settings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Yaw and pitch of each view, in degrees."""
    views = settings.get("views", ())
    return {view["name"]: (float(view.get("yaw", 0)), float(view.get("pitch", 0))) for view in views}


def _describe(angles: tuple[float, float]) -> str:
    return f"yaw {angles[0]:g}, pitch {angles[1]:g}"
