"""What prediction says of each scan."""

from collections.abc import Mapping

from pipeline.prediction.config import HeadName
from shards.manifest import Frozen


class Prediction(Frozen):
    """What one scan or sequence expresses.

    Attributes:
        source: its file or folder.
        key: how its views are called.
        num_frames: of a sequence, those that were looked at; 1 for a scan.
        labelled: its expression, where its dataset says one.
        expression: the likeliest one, or of words the likeliest words; None where it could not be read.
        probabilities: of each expression, or of each of the words.
        failure: why it could not be read.
    """

    source: str
    key: str
    num_frames: int = 1
    labelled: str | None = None
    expression: str | None = None
    probabilities: Mapping[str, float] = {}
    failure: str | None = None


class Predictions(Frozen):
    """All that were asked for, in the order of asking, and what named them."""

    head: HeadName
    text_source: str
    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
