"""smile-pipe: multiview images of 3D and 4D face scans, and vision-language models trained on them.

The public Python interface. Each stage is a function of its config; it writes its results to disk and returns the
manifest of what it wrote. Names are imported when they are first used, so `import smile_pipe` is fast.

Example:
    >>> import smile_pipe
    >>> smile_pipe.render(smile_pipe.RenderConfig(data_dir="BU-3DFE", out="shards"))  # doctest: +SKIP
    >>> smile_pipe.train(smile_pipe.TrainConfig(shards="shards", out="run", split="kfold:10:0"))  # doctest: +SKIP
    >>> smile_pipe.evaluate(smile_pipe.EvaluateConfig(run="run", shards="shards"))  # doctest: +SKIP
    >>> predictor = smile_pipe.Predictor.load("run")  # doctest: +SKIP
    >>> [found.expression for found in predictor.predict("face.obj")]  # doctest: +SKIP
    ['HA']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smile_pipe.pipeline.data.integrity import open_shards as open_shards
    from smile_pipe.pipeline.evaluate.config import EvaluateConfig as EvaluateConfig
    from smile_pipe.pipeline.evaluate.stage import run as evaluate
    from smile_pipe.pipeline.predict.predictor import Predictor as Predictor
    from smile_pipe.pipeline.render.config import RenderConfig as RenderConfig
    from smile_pipe.pipeline.render.stage import run as render
    from smile_pipe.pipeline.train.config import TrainConfig as TrainConfig
    from smile_pipe.pipeline.train.stage import run as train

__all__ = [
    "EvaluateConfig",
    "Predictor",
    "RenderConfig",
    "TrainConfig",
    "evaluate",
    "open_shards",
    "render",
    "train",
]

# Where each public name is defined: module and name there.
_DEFINED_IN = {
    "EvaluateConfig": ("pipeline.evaluate.config", "EvaluateConfig"),
    "Predictor": ("pipeline.predict.predictor", "Predictor"),
    "RenderConfig": ("pipeline.render.config", "RenderConfig"),
    "TrainConfig": ("pipeline.train.config", "TrainConfig"),
    "evaluate": ("pipeline.evaluate.stage", "run"),
    "open_shards": ("pipeline.data.integrity", "open_shards"),
    "render": ("pipeline.render.stage", "run"),
    "train": ("pipeline.train.stage", "run"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _DEFINED_IN[name]
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
