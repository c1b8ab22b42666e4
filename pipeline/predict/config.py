"""Options and results of the predict stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from smile_pipe.pipeline.captions.knowledge import KNOWLEDGE_HELP
from smile_pipe.pipeline.common.option_types import HEAD_HELP, ClassifierKind, ClassifierName, Repeated
from smile_pipe.pipeline.landmarks.axes import AXES_HELP, UP_HELP, Axes, UpAxis
from smile_pipe.pipeline.landmarks.length_units import UNITS_HELP, LengthUnit
from smile_pipe.pipeline.landmarks.source import LANDMARKS_HELP, LandmarkSource
from smile_pipe.pipeline.rendering.choose_backend import RendererName
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath


class PredictConfig(Frozen):
    """Options of `smile-pipe predict`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    scans: Annotated[tuple[str, ...], Repeated] = Field(
        min_length=1, description="Mesh files, or folders: of a dataset, of meshes, or of the frames of a sequence."
    )
    prompts: Annotated[tuple[str, ...], Repeated] = Field(
        (), description="Texts to choose from instead of the run's expressions; repeat the option for each text."
    )
    examples: StoragePath | None = Field(
        None,
        description="Folder of example faces, with a folder for each class (`FOLDER/CLASS/*.obj`), whose name is free. "
        "Each text of `prompts` is a class too, or the words of the class with this name. A mesh named `neutral` next "
        "to others is the neutral scan of their subject: where it is given, it is subtracted.",
    )
    head: Literal["auto", ClassifierName] = Field("auto", description=HEAD_HELP)
    knowledge: Path | None = Field(None, description=f"For captions: {KNOWLEDGE_HELP} [default: as in training]")
    sequence: bool = Field(False, description="Read each folder as the frames of one sequence, in the order of names.")
    frame_rate: float = Field(25.0, gt=0, le=100_000, description="Frames per second of `sequence`.")
    layout: str = Field("auto", description="Layout of folders, as for render; auto detects it.")
    save_views: StoragePath | None = Field(None, description="Directory to write the rendered views into.")
    up: UpAxis = Field("y", description=UP_HELP)
    axes: Axes | None = Field(None, description=AXES_HELP)
    units: LengthUnit = Field("auto", description=UNITS_HELP)
    landmarks: LandmarkSource = Field("auto", description=LANDMARKS_HELP)
    renderer: RendererName = Field("auto", description="Renderer, as for render.")
    use_gpu: bool = Field(False, description="Compute embeddings on the GPU.")


class Prediction(Frozen):
    """The expression of one scan or sequence.

    Attributes:
        source: its file or folder.
        key: unique name, with which the names of its views begin.
        num_frames: number of frames that the prediction is made from; 1 for a scan.
        labelled: its expression according to its dataset; None if unknown.
        expression: the most probable class; None if the scan could not be read.
        probabilities: probability of each class.
        alignment: what the face was aligned by: landmarks of a file, detected ones, or bounds; None if not read.
        confidence: of the detection of landmarks, from 0 to 1; None if they were not detected.
        is_relative: whether the neutral scan of the subject was subtracted.
        notes: what is odd about the scan; a scan that shows no face is marked here.
        failure: why the scan could not be read; None if it was.
    """

    source: str
    key: str
    num_frames: int = 1
    labelled: str | None = None
    expression: str | None = None
    probabilities: Mapping[str, float] = {}
    alignment: Literal["landmarks", "detected", "bounds"] | None = None
    confidence: float | None = None
    is_relative: bool = False
    notes: str = ""
    failure: str | None = None


class Predictions(Frozen):
    """The predictions of one command, in the order of its arguments.

    Attributes:
        head: the kind of classifier.
        text_source: the text source of the run.
        views: the views that the predictions are from.
        classes: the classes of the classifier.
        predictions: one a scan or sequence.
    """

    head: ClassifierKind
    text_source: str
    views: tuple[str, ...]
    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
