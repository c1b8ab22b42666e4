"""Predict the expressions of scans with a trained run: the `Predictor`, which is also part of the public API."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError

from smile_pipe.pipeline.captions.bank import PromptBank
from smile_pipe.pipeline.classifiers.knn import Features
from smile_pipe.pipeline.common.option_types import ClassifierName
from smile_pipe.pipeline.data.dataset import DecodeSpec, collate, decode_face, directions_of
from smile_pipe.pipeline.landmarks.axes import UPRIGHT
from smile_pipe.pipeline.landmarks.length_units import LengthUnit
from smile_pipe.pipeline.landmarks.source import LandmarkSource
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.classifier import Classifier, choose_classifier, prompt_classifier
from smile_pipe.pipeline.predict.config import Prediction
from smile_pipe.pipeline.predict.inputs import UNKNOWN, ScanInput, find_inputs
from smile_pipe.pipeline.render.process import process_sample
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.rendering.choose_backend import RendererName, choose_renderer, renderer_version
from smile_pipe.pipeline.runs.load_model import FaceEmbeddings, TrainedModel
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.images import CHANNELS
from smile_pipe.shards.sample import MAX_FRAMES, Sample, to_members
from smile_pipe.shards.storage import StoragePath


@dataclass(frozen=True)
class Predictor:
    """A trained model that predicts expressions; it is loaded once for any number of scans.

    Attributes:
        root: the run's directory.
        run: the run's manifest.
        model: the run's model.
        settings: how scans are rendered: like the run's shards, with a renderer of this machine.
        decode_spec: which images the model reads, and how they are decoded.
        classifier: the classifier that is used if no prompts are given.
    """

    root: StoragePath
    run: RunManifest
    model: TrainedModel
    settings: RenderSettings
    decode_spec: DecodeSpec
    classifier: Classifier

    @classmethod
    def load(
        cls,
        run: str | StoragePath,
        head: Literal["auto", ClassifierName] = "auto",
        renderer: RendererName = "auto",
        use_gpu: bool = False,
        axes: str = UPRIGHT,
        landmarks: LandmarkSource = "auto",
        knowledge: Path | None = None,
        units: LengthUnit = "auto",
    ) -> "Predictor":
        """Load a run.

        Args:
            run: the run's directory or URL.
            head: which classifier to use, see `PredictConfig.head`.
            renderer: which renderer to use, see `RenderConfig.renderer`.
            use_gpu: compute embeddings on the GPU.
            axes: axes of the scans to predict, see `smile_pipe.pipeline.landmarks.axes.parse_axes`.
            landmarks: what scans are aligned by, see `RenderConfig.landmarks`.
            knowledge: file of expression knowledge, see `PredictConfig.knowledge`.
            units: unit of length of the scans to predict, see `RenderConfig.units`.

        Raises:
            UsageError: the run is not finished or has no such classifier, or the renderer or the GPU is not available.
        """
        root = StoragePath(run)
        manifest, checkpoint = open_run(root)
        settings = render_settings_of(root, manifest, choose_renderer(renderer), axes, landmarks, units)
        if use_gpu and not torch.cuda.is_available():
            raise UsageError("PyTorch finds no GPU on this machine; leave it out", field="use_gpu")
        model = TrainedModel.load(manifest, checkpoint, "cuda" if use_gpu else "cpu")
        temporal = settings.sequences.temporal
        decode_spec = model.decode_spec(manifest, temporal)
        classifier = choose_classifier(head, root, manifest, model, knowledge)
        return cls(root, manifest, model, settings, decode_spec, classifier)

    def prompt_classifier(self, texts: Sequence[str], with_expressions: bool = False) -> Classifier:
        """Return a zero-shot classifier whose classes are texts.

        Args:
            texts: each is a class, and its own prompt.
            with_expressions: add the run's expressions that have prompts.

        Raises:
            UsageError: the run was trained without text, or all texts are empty.
        """
        prompts = {text.strip(): (text.strip(),) for text in texts if text.strip()}
        if not prompts:
            raise UsageError("is empty; give texts, such as 'a polite smile'", field="prompts")
        known = self.known_prompts if with_expressions else {}
        return prompt_classifier({**known, **prompts}, self.root, self.run, self.model)

    @property
    def known_prompts(self) -> Mapping[str, tuple[str, ...]]:
        """The prompts of the run's expressions, without those that have none."""
        return {name: prompts for name, prompts in self.run.prompts.items() if prompts}

    def predict(self, *paths: str | Path, prompts: Sequence[str] = ()) -> Iterator[Prediction]:
        """Predict the expressions of scans.

        Args:
            paths: meshes and folders, see `smile_pipe.pipeline.predict.inputs.find_inputs`.
            prompts: texts to choose from instead of the run's expressions.

        Yields:
            One prediction a scan or sequence.
        """
        classifier = self.prompt_classifier(prompts) if prompts else self.classifier
        for scan in find_inputs([str(path) for path in paths]):
            yield predict_input(self, scan, classifier)

    def render(self, scan: ScanInput) -> Sample:
        """Read and render a scan or sequence.

        Raises:
            MeshError: it cannot be read or rendered.
        """
        built = process_sample(scan.source, scan.root, self.settings, layout="predicted")
        if built.sample is None:
            raise MeshError("cannot be read" if built.failure is None else built.failure.reason)
        return built.sample

    def classify(self, scan: ScanInput, sample: Sample, classifier: Classifier) -> Prediction:
        """Predict the expression of a rendered scan or sequence.

        Raises:
            MeshError: the neutral scan of its subject is needed and cannot be read.
        """
        neutral = self.embed_neutral(scan) if classifier.of_directions else None
        probabilities = classifier.relative_to(self.embed(sample).fused, neutral.fused if neutral else None)[0]
        label = scan.source.expression
        return Prediction(
            source=scan.name,
            key=scan.source.key,
            num_frames=1 if sample.record.timeline is None else len(sample.record.timeline.frames),
            labelled=None if label == UNKNOWN else label,
            expression=classifier.classes[int(probabilities.argmax())],
            probabilities=dict(zip(classifier.classes, probabilities.tolist(), strict=True)),
            alignment=sample.record.frame.method,
            confidence=sample.record.frame.confidence,
            is_relative=neutral is not None,
            notes=sample.record.notes,
        )

    def embed(self, sample: Sample) -> FaceEmbeddings:
        """Return the embeddings of a sample's views [1, V, D], and fused [1, D]."""
        return self.model.embed_batch(collate([decode_face(sample, self.decode_spec)]), self.directions)

    def embed_neutral(self, scan: ScanInput) -> FaceEmbeddings | None:
        """Return the embeddings of the neutral scan of a scan's subject; None if it is not given, or for flow.

        Raises:
            MeshError: it cannot be read or rendered.
        """
        if scan.source.neutral is None or self.run.channel == "flow":
            return None
        neutral = replace(scan.source, frames=(scan.source.neutral,), neutral=None)
        try:
            return self.embed(self.render(replace(scan, source=neutral)))
        except MeshError as error:
            raise MeshError(f"the neutral scan of its subject: {error}") from None

    def embed_frames(self, sample: Sample) -> FaceEmbeddings:
        """Return the embeddings of each frame of a sequence as if it were a scan: [T, V, D] and [T, D].

        Raises:
            SampleError: the sample has no images of frames.
        """
        face = decode_face(sample, replace(self.decode_spec, temporal="frames", max_frames=MAX_FRAMES))
        start = np.zeros(1, np.float32)
        frames = [replace(face, views=views[None], times=start) for views in face.views]
        return self.model.embed_batch(collate(frames), self.directions)

    def fuse(self, embeddings: FaceEmbeddings, views: Sequence[int]) -> Features:
        """Fuse the embeddings of some of the views: float32 [N, D]."""
        return self.model.fuse(embeddings.views[:, list(views)], self.directions.numpy()[list(views)])

    @cached_property
    def directions(self) -> torch.Tensor:
        """Directions from the face to the camera of each view, [V, 3]."""
        return directions_of(self.settings.rig_of("").cameras)


def predict_input(
    predictor: Predictor, scan: ScanInput, classifier: Classifier, views_folder: StoragePath | None = None
) -> Prediction:
    """Predict one scan or sequence; if it cannot be read, the prediction has a `failure`.

    Args:
        predictor: the model.
        scan: the scan or sequence.
        classifier: what chooses the class.
        views_folder: a folder for the rendered views; None writes none.

    Raises:
        UsageError: the views cannot be written.
    """
    try:
        sample = predictor.render(scan)
        if views_folder is not None:
            _save_views(sample, views_folder)
        return predictor.classify(scan, sample, classifier)
    except MeshError as error:
        return Prediction(source=scan.name, key=scan.source.key, failure=str(error))


def render_settings_of(
    root: StoragePath,
    run: RunManifest,
    renderer: RendererName,
    axes: str = UPRIGHT,
    landmarks: LandmarkSource = "auto",
    units: LengthUnit = "auto",
) -> RenderSettings:
    """Return the render settings of a run's shards, with the channel `rgb` for people, and without jitter.

    Args:
        root: the run's directory, for messages.
        run: the run's manifest.
        renderer: the renderer of this machine.
        axes: axes of the scans to predict; they may differ from those of the training data.
        landmarks: what the scans to predict are aligned by.
        units: unit of length of the scans to predict.

    Raises:
        UsageError: the manifest has no valid render settings.
    """
    sequences = dict(run.settings.get("sequences", {}))
    if run.temporal != "none":
        sequences["temporal"] = run.temporal
    elif sequences.get("temporal") == "both":
        sequences["temporal"] = "frames"
    changes = {
        "renderer": renderer,
        "renderer_version": renderer_version(renderer),
        "axes": axes,
        "landmarks": landmarks,
        "units": units,
        "jitter_deg": 0.0,
        "variant": 0,
        "channels": [channel for channel in CHANNELS if channel in (*run.channels, "rgb")],
        "needs_colors": "rgb" in run.channels,
        "jpeg": "cpu",
        "sequences": sequences,
        "text_source": "label",
        # Samples need a prompt, but predictions do not use it.
        "prompts": PromptBank(templates={}, others=("{}",)),
    }
    try:
        recorded = {name: value for name, value in run.settings.items() if name != "detector"}
        return RenderSettings.model_validate({**recorded, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{root}: the run's render settings cannot be read: {field}: {first['msg']}; train again"
        ) from None


def _save_views(sample: Sample, folder: StoragePath) -> None:
    """Write the images of a sample, by their names in a shard."""
    try:
        folder.ensure_folder()
        for name, content in to_members(sample):
            if not name.endswith((".json", ".txt")):
                (folder / name).write_atomically(content)
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror or error})", field="save_views", value=folder) from None
