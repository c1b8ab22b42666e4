"""A trained model, taken from its run: what evaluation and prediction start from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.objectives import ContrastiveModel, Supervised, build_model
from smile_pipe.model.towers import Tokenizer, build_tokenizer
from smile_pipe.pipeline.data.dataset import Batch, FaceDataset
from smile_pipe.pipeline.runs.run_directory import Checkpoint
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.index import IndexRow


@dataclass(frozen=True)
class FaceEmbeddings:
    """A batch of faces in the joint space.

    Attributes:
        keys: of the samples, in order.
        views: float32 [B, V, D], one embedding a view, before views tell each other anything; see `TrainedModel.fuse`.
        fused: float32 [B, D], all of them fused.
    """

    keys: list[str]
    views: NDArray[np.float32]
    fused: NDArray[np.float32]


@dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of a checkpoint, ready to embed."""

    model: ContrastiveModel
    tokenizer: Tokenizer
    device: torch.device

    @classmethod
    def load(cls, manifest: RunManifest, checkpoint: Checkpoint, device: str = "cpu") -> "TrainedModel":
        """Build the run's model and give it the checkpoint's weights."""
        # The checkpoint holds all weights, so those that training began with need not be had again.
        config = RecipeConfig.model_validate({**manifest.recipe, "pretrained": None})
        model = build_model(config)
        model.load_state_dict(checkpoint.load_model())
        return cls(model.eval().to(device), build_tokenizer(config.arch), torch.device(device))

    @property
    def scale(self) -> float:
        """The inverse temperature that cosines were multiplied by; where no loss has one, what it began with."""
        return self.model.scale.item()

    def embed_faces(
        self, reader: FaceDataset, rows: Sequence[IndexRow], batch_size: int
    ) -> Iterator[NDArray[np.float32]]:
        """Fused embeddings of samples, [B, D] a batch, in order; without those that the reader skips."""
        return (part.fused for part in self.embed_views(reader, rows, batch_size))

    def embed_views(self, reader: FaceDataset, rows: Sequence[IndexRow], batch_size: int) -> Iterator[FaceEmbeddings]:
        """The same, with the embeddings of their views, from which any part of the rig can be fused."""
        directions = reader.directions(rows)
        groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for batch in reader.batches(groups):
            yield self.embed_batch(batch, directions)

    @torch.inference_mode()
    def embed_batch(self, batch: Batch, directions: Tensor) -> FaceEmbeddings:
        """Embeddings of one batch, whose views look from `directions` [V, 3]."""
        directions = directions.to(self.device)
        views_nvchw = batch.views.to(self.device).float() / 255
        views_bvd = self.model.embed_views(views_nvchw, batch.moments.to(self.device))
        _, fused, _ = self.model.fuse(views_bvd, directions)
        return FaceEmbeddings(batch.keys, views_bvd.float().cpu().numpy(), fused.float().cpu().numpy())

    @torch.inference_mode()
    def fuse(self, views: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fuse views [N, V, D] that look from directions [V, 3] into [N, D]; any part of a rig, in any order."""
        given = (torch.from_numpy(array).to(self.device) for array in (views, directions))
        return self.model.fuse(*given)[1].float().cpu().numpy()

    @torch.inference_mode()
    def embed_prompts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of texts, [N, D]."""
        return self.model.embed_text(self.tokenizer(list(prompts)).to(self.device)).float().cpu().numpy()

    @torch.inference_mode()
    def classify(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines of fused embeddings [N, D] with the learned anchors of the classes, [N, K].

        Raises:
            TypeError: the recipe has no classifier.
        """
        if not isinstance(self.model, Supervised):
            raise TypeError(f"{self.model.config.name} has no classifier")
        anchors = torch.nn.functional.normalize(self.model.anchors.float(), dim=-1).cpu()
        return (torch.nn.functional.normalize(torch.from_numpy(embeddings), dim=-1) @ anchors.T).numpy()
