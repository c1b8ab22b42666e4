"""The prediction stage: a run and scans in, probabilities of expressions out.

    find scans -> read, render, encode, as for shards -> embed -> name by words, a probe or a classifier

Each scan goes the way of the shards that the run learned from, down to the JPEG, so that a face is called the same
whether it lies in a shard or in a file.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.heads.neighbours import Features
from pipeline.making.in_process import made_here
from pipeline.making.pieces import needed, parcels_of
from pipeline.making.samples import made_from
from pipeline.meshes.mesh import MeshError
from pipeline.prediction.config import HeadName, PredictConfig
from pipeline.prediction.heads import Head, choose_head, words_head
from pipeline.prediction.inputs import UNKNOWN, Input, find_inputs
from pipeline.prediction.results import Prediction, Predictions
from pipeline.prediction.settings import settings_of
from pipeline.render_settings import RenderSettings
from pipeline.rendering.choice import RendererName, choose_renderer
from pipeline.training.faces import Reading, batch_of, decode_face, directions_of
from pipeline.training.manifest import RunManifest
from pipeline.training.run_directory import open_run
from pipeline.training.trained import FaceEmbeddings, TrainedModel
from shards.errors import UsageError
from shards.places import Place, place, write_atomically
from shards.sample import MAX_FRAMES, Sample, to_members


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
        found.append(_predict(predictor, given, head, config.save_views))
    on_progress(len(inputs), len(inputs))
    return Predictions(
        head=head.name, text_source=predictor.run.text_source, classes=head.classes, predictions=tuple(found)
    )


def _predict(predictor: "Predictor", given: Input, head: Head, save_to: Place | None) -> Prediction:
    try:
        sample = predictor.see(given)
    except MeshError as error:
        return Prediction(source=given.named, key=given.source.key, failure=str(error))
    if save_to is not None:
        save_views(sample, save_to)
    return predictor.named(given, sample, head)


def save_views(sample: Sample, folder: Place) -> None:
    """Write the images of a sample, by their names in a shard.

    Raises:
        UsageError: they cannot be written there.
    """
    try:
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in to_members(sample):
            if not name.endswith((".json", ".txt")):
                write_atomically(folder / name, content)
    except OSError as error:
        raise UsageError(f"--save-views {folder}: cannot be written ({error.strerror or error})") from None


@dataclass(frozen=True)
class Predictor:
    """A trained model that names faces; loaded once, it takes as many as there are.

    Attributes:
        root, run: where the run lies, and its manifest.
        settings: how scans are rendered: as the run's shards were, by the renderer of this machine.
        reading: what of the images the model sees.
        head: what names faces if no words are given.
    """

    root: Place
    run: RunManifest
    model: TrainedModel
    settings: RenderSettings
    reading: Reading
    head: Head

    @classmethod
    def load(
        cls,
        run: str | Place,
        head: Literal["auto", HeadName] = "auto",
        renderer: RendererName = "auto",
        use_gpu: bool = False,
    ) -> "Predictor":
        """Load a run.

        Raises:
            UsageError: no finished run, a head that it has not, or a renderer that this machine has not.
        """
        root = place(run)
        manifest, checkpoint = open_run(root)
        settings = settings_of(root, manifest, choose_renderer(renderer))
        if use_gpu and not torch.cuda.is_available():
            raise UsageError("--use-gpu: PyTorch finds no GPU on this machine; leave it out")
        model = TrainedModel.load(manifest, checkpoint, "cuda" if use_gpu else "cpu")
        temporal = settings.sequences.temporal
        reading = Reading(manifest.channel, model.model.towers.image_size, temporal, manifest.max_frames)
        return cls(root, manifest, model, settings, reading, choose_head(head, root, manifest, model))

    def words(self, words: Sequence[str], beside_classes: bool = False) -> Head:
        """A head that chooses among any words, each of which stands for itself, and with them the run's expressions.

        Raises:
            UsageError: the run has learned no words, or there are none.
        """
        given = {word.strip(): (word.strip(),) for word in words if word.strip()}
        if not given:
            raise UsageError("--prompts: is empty; give words, such as 'a polite smile'")
        known = self.known if beside_classes else {}
        return words_head({**known, **given}, self.root, self.run, self.model)

    @property
    def known(self) -> Mapping[str, tuple[str, ...]]:
        """The expressions that the run has prompts for, with these."""
        return {name: prompts for name, prompts in self.run.prompts.items() if prompts}

    def predict(self, *paths: str | Path, prompts: Sequence[str] = ()) -> Iterator[Prediction]:
        """Name what lies at some paths; see `pipeline.prediction.inputs.find_inputs`."""
        head = self.words(prompts) if prompts else self.head
        for given in find_inputs([str(path) for path in paths]):
            yield _predict(self, given, head, None)

    def see(self, given: Input) -> Sample:
        """Read and render one input.

        Raises:
            MeshError: it cannot be; the message says why.
        """
        source = needed(given.source, self.settings)
        parcels = parcels_of([source], self.settings)
        rows = [row for parcel in parcels for row in made_here(parcel, given.root, self.settings)]
        (made,) = made_from(rows, "predicted", self.settings)
        if made.sample is None:
            raise MeshError(json.loads(made.failure or "{}").get("reason", "cannot be read"))
        return made.sample

    def named(self, given: Input, sample: Sample, head: Head) -> Prediction:
        """What a rendered input expresses."""
        found = head.probabilities(self.embed(sample).fused)[0]
        label = given.source.expression
        return Prediction(
            source=given.named,
            key=given.source.key,
            num_frames=1 if sample.record.timeline is None else len(sample.record.timeline.frames),
            labelled=None if label == UNKNOWN else label,
            expression=head.classes[int(found.argmax())],
            probabilities=dict(zip(head.classes, found.tolist(), strict=True)),
        )

    def embed(self, sample: Sample) -> FaceEmbeddings:
        """Embeddings of a sample's views [1, V, D], and fused [1, D]."""
        return self.model.embed_batch(batch_of([decode_face(sample, self.reading)]), self.directions)

    def embed_moments(self, sample: Sample) -> FaceEmbeddings:
        """The same of each frame of a sequence, as if it were a scan: [T, V, D] and [T, D].

        Raises:
            SampleError: no frames of it were rendered.
        """
        face = decode_face(sample, replace(self.reading, temporal="frames", max_frames=MAX_FRAMES))
        start = np.zeros(1, np.float32)
        moments = [replace(face, views=views[None], times=start) for views in face.views]
        return self.model.embed_batch(batch_of(moments), self.directions)

    def fuse(self, embeddings: FaceEmbeddings, views: Sequence[int]) -> Features:
        """Fused embeddings [N, D] of some of the views, as if there were no others."""
        return self.model.fuse(embeddings.views[:, list(views)], self.directions.numpy()[list(views)])

    @cached_property
    def directions(self) -> torch.Tensor:
        """From the face towards the camera of each view, [V, 3]."""
        return directions_of(self.settings.rig_of("").cameras)
