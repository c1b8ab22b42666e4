"""Predict the expressions of scans with a trained run: the `Predictor`, and how its scans are rendered."""

import json
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
from smile_pipe.pipeline.data.dataset import DecodeSpec, collate, decode_face, directions_of
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.classifier import Head, choose_head, words_head
from smile_pipe.pipeline.predict.config import HeadName, Prediction
from smile_pipe.pipeline.predict.inputs import UNKNOWN, Input, find_inputs
from smile_pipe.pipeline.render.build import build_samples
from smile_pipe.pipeline.render.local import build_in_process
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import batch_units, needed
from smile_pipe.pipeline.rendering.backend import RendererName, choose_renderer, renderer_version
from smile_pipe.pipeline.runs.load_model import FaceEmbeddings, TrainedModel
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.images import CHANNELS
from smile_pipe.shards.sample import MAX_FRAMES, Sample, to_members
from smile_pipe.shards.storage import PathLike, StoragePath


def settings_of(root: StoragePath, run: RunManifest, renderer: RendererName) -> RenderSettings:
    """Those of the run's shards, with colours beside what the model sees, for people, and without jitter.

    Raises:
        UsageError: the run does not say how its shards were rendered.
    """
    sequences = dict(run.settings.get("sequences", {}))
    if run.temporal != "none":
        sequences["temporal"] = run.temporal
    elif sequences.get("temporal") == "both":
        sequences["temporal"] = "frames"
    changes = {
        "renderer": renderer,
        "renderer_version": renderer_version(renderer),
        "jitter_deg": 0.0,
        "channels": [channel for channel in CHANNELS if channel in (run.channel, "rgb")],
        "sequences": sequences,
        "text_source": "label",
        # Nobody reads the prompts of what is to be named.
        "prompts": PromptBank(templates={}, others=("{}",)),
    }
    try:
        return RenderSettings.model_validate({**run.settings, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{root}: its shards do not say how they were rendered ({where}: {first['msg']})") from None


def save_views(sample: Sample, folder: PathLike) -> None:
    """Write the images of a sample, by their names in a shard.

    Raises:
        UsageError: they cannot be written there.
    """
    folder = StoragePath(folder)
    try:
        folder.ensure_folder()
        for name, content in to_members(sample):
            if not name.endswith((".json", ".txt")):
                (folder / name).write_atomically(content)
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror or error})", field="save_views", value=folder) from None


@dataclass(frozen=True)
class Predictor:
    """A trained model that names faces; loaded once, it takes as many as there are.

    Attributes:
        root, run: where the run lies, and its manifest.
        settings: how scans are rendered: as the run's shards were, by the renderer of this machine.
        reading: what of the images the model sees.
        head: what names faces if no words are given.
    """

    root: StoragePath
    run: RunManifest
    model: TrainedModel
    settings: RenderSettings
    reading: DecodeSpec
    head: Head

    @classmethod
    def load(
        cls,
        run: PathLike,
        head: Literal["auto", HeadName] = "auto",
        renderer: RendererName = "auto",
        use_gpu: bool = False,
    ) -> "Predictor":
        """Load a run.

        Raises:
            UsageError: no finished run, a head that it has not, or a renderer that this machine has not.
        """
        root = StoragePath(run)
        manifest, checkpoint = open_run(root)
        settings = settings_of(root, manifest, choose_renderer(renderer))
        if use_gpu and not torch.cuda.is_available():
            raise UsageError("PyTorch finds no GPU on this machine; leave it out", field="use_gpu")
        model = TrainedModel.load(manifest, checkpoint, "cuda" if use_gpu else "cpu")
        temporal = settings.sequences.temporal
        reading = DecodeSpec(manifest.channel, model.model.towers.image_size, temporal, manifest.max_frames)
        return cls(root, manifest, model, settings, reading, choose_head(head, root, manifest, model))

    def words(self, words: Sequence[str], beside_classes: bool = False) -> Head:
        """A head that chooses among any words, each of which stands for itself, and with them the run's expressions.

        Raises:
            UsageError: the run has learned no words, or there are none.
        """
        given = {word.strip(): (word.strip(),) for word in words if word.strip()}
        if not given:
            raise UsageError("is empty; give words, such as 'a polite smile'", field="prompts")
        known = self.known if beside_classes else {}
        return words_head({**known, **given}, self.root, self.run, self.model)

    @property
    def known(self) -> Mapping[str, tuple[str, ...]]:
        """The expressions that the run has prompts for, with these."""
        return {name: prompts for name, prompts in self.run.prompts.items() if prompts}

    def predict(self, *paths: str | Path, prompts: Sequence[str] = ()) -> Iterator[Prediction]:
        """Name what lies at some paths; see `smile_pipe.pipeline.predict.inputs.find_inputs`."""
        head = self.words(prompts) if prompts else self.head
        for given in find_inputs([str(path) for path in paths]):
            yield predict_scan(self, given, head, None)

    def see(self, given: Input) -> Sample:
        """Read and render one input.

        Raises:
            MeshError: it cannot be; the message says why.
        """
        source = needed(given.source, self.settings)
        parcels = batch_units([source], self.settings)
        rows = [row for parcel in parcels for row in build_in_process(parcel, given.root, self.settings)]
        (made,) = build_samples(rows, "predicted", self.settings)
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
        return self.model.embed_batch(collate([decode_face(sample, self.reading)]), self.directions)

    def embed_moments(self, sample: Sample) -> FaceEmbeddings:
        """The same of each frame of a sequence, as if it were a scan: [T, V, D] and [T, D].

        Raises:
            SampleError: no frames of it were rendered.
        """
        face = decode_face(sample, replace(self.reading, temporal="frames", max_frames=MAX_FRAMES))
        start = np.zeros(1, np.float32)
        moments = [replace(face, views=views[None], times=start) for views in face.views]
        return self.model.embed_batch(collate(moments), self.directions)

    def fuse(self, embeddings: FaceEmbeddings, views: Sequence[int]) -> Features:
        """Fused embeddings [N, D] of some of the views, as if there were no others."""
        return self.model.fuse(embeddings.views[:, list(views)], self.directions.numpy()[list(views)])

    @cached_property
    def directions(self) -> torch.Tensor:
        """From the face towards the camera of each view, [V, 3]."""
        return directions_of(self.settings.rig_of("").cameras)


def predict_scan(predictor: "Predictor", given: Input, head: Head, save_to: StoragePath | None) -> Prediction:
    """Predict one scan; what cannot be read becomes a `Prediction` with a reason.

    Args:
        save_to: a folder for the rendered views; None saves none.
    """
    try:
        sample = predictor.see(given)
    except MeshError as error:
        return Prediction(source=given.named, key=given.source.key, failure=str(error))
    if save_to is not None:
        save_views(sample, save_to)
    return predictor.named(given, sample, head)
