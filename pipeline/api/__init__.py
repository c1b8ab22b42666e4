"""smile-pipe: multiview images of 3D and 4D face scans, and vision-language models trained on them.

The public Python interface. A stage is a function of its config: it writes its results to disk, returns the manifest of
what it wrote, and can be called again, because finished work is kept. `import smile_pipe` loads neither torch nor ray;
a name is loaded when it is first used.

Example:
    >>> import smile_pipe as sp
    >>> sp.render(sp.RenderConfig(data_dir="BU-3DFE", out="shards"))  # doctest: +SKIP
    >>> sp.train(sp.TrainConfig(shards="shards", out="run", split="kfold:10:0"))  # doctest: +SKIP
    >>> sp.evaluate(sp.EvaluateConfig(run="run", shards="shards"))  # doctest: +SKIP
    >>> predictor = sp.Predictor.load("run")  # doctest: +SKIP
    >>> [prediction.expression for prediction in predictor.predict("face.obj")]  # doctest: +SKIP
    ['HA']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smile_pipe.pipeline.common.threads import let_threads_sleep
from smile_pipe.pipeline.common.writable_cache import use_writable_cache

if TYPE_CHECKING:
    from smile_pipe.pipeline.data.streams import StreamableShardSet as StreamableShardSet
    from smile_pipe.pipeline.evaluate.config import EvaluateConfig as EvaluateConfig
    from smile_pipe.pipeline.predict.predictor import Predictor as Predictor
    from smile_pipe.pipeline.render.config import RenderConfig as RenderConfig
    from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
    from smile_pipe.pipeline.runs.run_manifest import RunManifest
    from smile_pipe.pipeline.train.config import TrainConfig as TrainConfig
    from smile_pipe.shards.manifest import ShardManifest

use_writable_cache()
let_threads_sleep()

__all__ = [
    "EvaluateConfig",
    "Predictor",
    "RenderConfig",
    "StreamableShardSet",
    "TrainConfig",
    "evaluate",
    "open_shards",
    "render",
    "train",
]

# The module of each class that is loaded on first use.
_MODULES = {
    "EvaluateConfig": "smile_pipe.pipeline.evaluate.config",
    "Predictor": "smile_pipe.pipeline.predict.predictor",
    "RenderConfig": "smile_pipe.pipeline.render.config",
    "StreamableShardSet": "smile_pipe.pipeline.data.streams",
    "TrainConfig": "smile_pipe.pipeline.train.config",
}


def render(config: "RenderConfig") -> "ShardManifest":
    """Render multiview images of face scans, and write them as WebDataset shards.

    Args:
        config: the dataset, the output directory, and how to render.

    Returns:
        The manifest of the shards: their names and sizes, views, channels, numbers of samples and failures.

    Raises:
        UsageError: the dataset, the output or an option cannot be used; nothing has been written.

    Example:
        >>> from smile_pipe import RenderConfig, render
        >>> manifest = render(RenderConfig(data_dir="BU-3DFE", out="shards", rig="5", size=224))  # doctest: +SKIP
        >>> manifest.num_samples, manifest.num_failures  # doctest: +SKIP
        (2500, 0)
    """
    from smile_pipe.pipeline.render.stage import run

    return run(config)


def train(config: "TrainConfig") -> "RunManifest":
    """Train a recipe on shards with Ray Train; subjects on the test side of the split are never read.

    Args:
        config: the shards, the output directory, the split, and the hyperparameters.

    Returns:
        The manifest of the run: recipe, subjects, steps, final losses and the name of the last checkpoint.

    Raises:
        UsageError: shards, split, recipe or output cannot be used; nothing has been written.

    Example:
        >>> from smile_pipe import TrainConfig, train
        >>> manifest = train(TrainConfig(shards="shards", out="run", split="kfold:10:0", epochs=30))  # doctest: +SKIP
        >>> manifest.checkpoint  # doctest: +SKIP
        'step-002130'
    """
    from smile_pipe.pipeline.train.stage import run

    return run(config)


def evaluate(config: "EvaluateConfig") -> "EvaluationManifest":
    """Score a trained run on subjects that it was not trained on, and write a report into its `evaluation/`.

    Args:
        config: the run, the shards, and the protocols.

    Returns:
        The manifest of the evaluation: accuracy, F1 and intervals of each protocol.

    Raises:
        UsageError: the run is not finished, or shards or split cannot be used; nothing has been written.

    Example:
        >>> from smile_pipe import EvaluateConfig, evaluate
        >>> manifest = evaluate(EvaluateConfig(run="run", shards="shards", protocol="knn,probe"))  # doctest: +SKIP
        >>> manifest.protocols["knn"].accuracy  # doctest: +SKIP
        0.61
    """
    from smile_pipe.pipeline.evaluate.stage import run

    return run(config)


def open_shards(shards: str, cache_dir: str | None = None, cache_gb: float = 20.0) -> "StreamableShardSet":
    """Open a shard set, after its manifest, its index and the sizes of its shards were compared.

    Args:
        shards: a directory, a `manifest.json`, a glob, a brace pattern or a URL.
        cache_dir: local folder for copies of the shards that streams read; by default, shards under a URL are copied to
            the cache folder of the user, and others are not copied.
        cache_gb: largest size of that folder, in GiB; 0 reads without copies.

    Returns:
        The shard set: its manifest, one row of the index for each sample, a reader of samples, and streams of samples
        for loops of webdataset, PyTorch and Ray Data.

    Raises:
        UsageError: there are no shards, or manifest, index and sizes do not agree.

    Example:
        >>> from smile_pipe import open_shards
        >>> shards = open_shards("shards")  # doctest: +SKIP
        >>> happy = [row for row in shards.rows if row.expression == "HA"]  # doctest: +SKIP
        >>> shards.read(happy[0]).text  # doctest: +SKIP
        'a face with a happy expression'
        >>> sample = next(iter(shards.torch(channels=["depth"])))  # doctest: +SKIP
        >>> sample["front.depth.png"].dtype, sample["json"]["subject"]  # doctest: +SKIP
        (dtype('uint16'), 'F0001')
    """
    from smile_pipe.pipeline.data.streams import open_streamable

    return open_streamable(shards, cache_dir, cache_gb)


def __getattr__(name: str) -> Any:
    """Load a public class when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
