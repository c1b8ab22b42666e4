"""The predict stage: a run and scans in, probabilities of expressions out.

    find scans -> read, render, encode (as for shards) -> embed -> classify by prompts, captions, examples ...

A scan is processed like the samples of the shards that the run was trained on, JPEG compression included, so that a
face gets the same prediction from its file as from a shard.
"""

from collections.abc import Callable

from smile_pipe.pipeline.landmarks.axes import resolve_axes
from smile_pipe.pipeline.predict.config import PredictConfig, Predictions
from smile_pipe.pipeline.predict.examples import example_classifier
from smile_pipe.pipeline.predict.inputs import find_inputs
from smile_pipe.pipeline.predict.predictor import Predictor, predict_input
from smile_pipe.shards.errors import UsageError


def run(config: PredictConfig, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Predictions:
    """Predict the expression of every scan.

    Args:
        config: the options.
        on_progress: called with the number of finished and of all scans.

    Raises:
        UsageError: no finished run, no scan, no such classifier, or options that exclude each other.
    """
    if config.examples and config.head != "auto":
        raise UsageError("has no effect with `examples`; leave it out", field="head", value=config.head)
    if config.prompts and config.head not in ("auto", "zero-shot"):
        raise UsageError("has no effect with `prompts`; leave it out", field="head", value=config.head)
    inputs = find_inputs(config.scans, config.layout, config.sequence, config.frame_rate)
    predictor = Predictor.load(
        config.run,
        config.head,
        config.renderer,
        config.use_gpu,
        resolve_axes(config.up, config.axes),
        config.landmarks,
        config.knowledge,
        config.units,
    )
    classifier = predictor.prompt_classifier(config.prompts) if config.prompts else predictor.classifier
    if config.examples:
        classifier = example_classifier(predictor, config.examples, config.prompts)
    predictions = []
    for number, scan in enumerate(inputs):
        on_progress(number, len(inputs))
        predictions.append(predict_input(predictor, scan, classifier, config.save_views))
    on_progress(len(inputs), len(inputs))
    return Predictions(
        head=classifier.name,
        text_source=predictor.run.text_source,
        views=predictor.run.views,
        classes=classifier.classes,
        predictions=tuple(predictions),
    )
