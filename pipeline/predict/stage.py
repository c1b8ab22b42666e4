"""The prediction stage: a run and scans in, probabilities of expressions out.

    find scans -> read, render, encode, as for shards -> embed -> name by words, a probe or a classifier

Each scan goes the way of the shards that the run learned from, down to the JPEG, so that a face is called the same
whether it lies in a shard or in a file.
"""

from collections.abc import Callable

from smile_pipe.pipeline.predict.config import PredictConfig, Predictions
from smile_pipe.pipeline.predict.inputs import find_inputs
from smile_pipe.pipeline.predict.predictor import Predictor, predict_scan


def run(config: PredictConfig, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Predictions:
    """Name every scan.

    Raises:
        UsageError: no finished run, no scan, or no head to name them with.
    """
    inputs = find_inputs(config.scans, config.layout, config.sequence, config.frame_rate)
    predictor = Predictor.load(config.run, config.head, config.renderer, config.use_gpu)
    head = predictor.words(config.prompts) if config.prompts else predictor.head
    found = []
    for number, given in enumerate(inputs):
        on_progress(number, len(inputs))
        found.append(predict_scan(predictor, given, head, config.save_views))
    on_progress(len(inputs), len(inputs))
    return Predictions(
        head=head.name, text_source=predictor.run.text_source, classes=head.classes, predictions=tuple(found)
    )
