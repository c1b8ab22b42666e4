"""A trained model loaded from its run, for evaluation, prediction and export."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.recipes import RecipeModel, build_model
from smile_pipe.model.towers import Tokenizer, build_tokenizer
from smile_pipe.pipeline.common.finite_steps import DivergedError, check_finite
from smile_pipe.pipeline.data.dataset import Batch, DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.prefetch import prefetch
from smile_pipe.pipeline.data.temporal import TemporalRead
from smile_pipe.pipeline.runs.run_directory import Checkpoint
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.index import SampleRow

REMEDY = "train again with a lower `learning_rate` or with `precision=float32`"


@dataclass(frozen=True)
class FaceEmbeddings:
    """Embeddings of a batch of faces in the joint space.

    Attributes:
        keys: Names of the samples, in order.
        views: One embedding per view, before aggregation, float32 [B, V, D]; see `TrainedModel.fuse`.
        fused: All views fused, float32 [B, D].
    """

    keys: list[str]
    views: NDArray[np.float32]
    fused: NDArray[np.float32]


@dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of a checkpoint, in evaluation mode.

    Attributes:
        model: The model.
        tokenizer: Tokenizer of its text tower.
        device: Device that it computes on.
    """

    model: RecipeModel
    tokenizer: Tokenizer
    device: torch.device

    @classmethod
    def load(cls, manifest: RunManifest, checkpoint: Checkpoint, device: str = "cpu") -> "TrainedModel":
        """Build the model of a run and load the weights of a checkpoint.

        Args:
            manifest: Manifest of the run.
            checkpoint: The checkpoint.
            device: "cpu" or "cuda".

        Raises:
            DivergedError: The weights are not finite.
        """
        # The checkpoint holds all weights, so the pretrained ones are not loaded.
        config = RecipeConfig.model_validate({**manifest.recipe, "pretrained": None})
        model = build_model(config)
        model.load_state_dict(checkpoint.load_model())
        check_finite(model, f"{checkpoint.path}: the weights cannot be used", REMEDY)
        return cls(model.eval().to(device), build_tokenizer(config.arch), torch.device(device))

    def decode_spec(self, manifest: RunManifest, temporal: TemporalRead) -> DecodeSpec:
        """Which images of samples are the input, converted as in the training; `temporal` is what of sequences."""
        size = self.model.image_size
        return DecodeSpec(manifest.channels, size, temporal, manifest.max_frames, manifest.input_version)

    @property
    def scale(self) -> float:
        """Inverse temperature that cosines were multiplied by; its initial value if no loss uses it."""
        return self.model.scale.item()

    def embed_faces(
        self, dataset: FaceDataset, rows: Sequence[SampleRow], batch_size: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yield fused embeddings of samples, [B, D] per batch, in order and without skipped samples."""
        return (batch.fused for batch in self.embed_views(dataset, rows, batch_size))

    def embed_views(
        self,
        dataset: FaceDataset,
        rows: Sequence[SampleRow],
        batch_size: int,
        change: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> Iterator[FaceEmbeddings]:
        """Yield the embeddings of samples with those of their views, of which any subset can be fused.

        Args:
            dataset: Reader of the samples.
            rows: The samples.
            batch_size: Number of samples at a time.
            change: Changes the images of a batch first.
        """
        directions = dataset.directions(rows)
        groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for batch in prefetch(map(change, dataset.batches(groups)), self.device):
            yield self.embed_batch(batch, directions)

    @torch.inference_mode()
    def embed_batch(self, batch: Batch, directions: Tensor) -> FaceEmbeddings:
        """Embed one batch; `directions` [V, 3] are unit vectors from the face to the cameras.

        Raises:
            DivergedError: An embedding is not finite.
        """
        directions = directions.to(self.device)
        views_nvchw = batch.views.to(self.device).float() / 255
        views_bvd = self.model.embed_views(views_nvchw, batch.frames.to(self.device))
        _, fused, _ = self.model.fuse(views_bvd, directions)
        if not fused.isfinite().all():
            raise DivergedError(f"embeddings of {batch.keys[0]} and others are not finite; {REMEDY}")
        return FaceEmbeddings(batch.keys, views_bvd.float().cpu().numpy(), fused.float().cpu().numpy())

    @torch.inference_mode()
    def fuse(self, views: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fuse views [N, V, D] seen from directions [V, 3] to [N, D]; any subset of a rig, in any order."""
        views_nvd, directions_v3 = (torch.from_numpy(array).to(self.device) for array in (views, directions))
        return self.model.fuse(views_nvd, directions_v3)[1].float().cpu().numpy()

    @torch.inference_mode()
    def embed_prompts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embed prompts: [N, D]."""
        return self.model.embed_text(self.tokenizer(list(prompts))).float().cpu().numpy()

    @torch.inference_mode()
    def classify(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the cosines of fused embeddings [N, D] with the learned anchors of the classes: [N, K].

        Raises:
            TypeError: The recipe has no classifier.
        """
        anchors = self.model.class_anchors()
        if anchors is None:
            raise TypeError(f"{self.model.config.name} has no classifier")
        return (torch.nn.functional.normalize(torch.from_numpy(embeddings), dim=-1) @ anchors.cpu().T).numpy()
