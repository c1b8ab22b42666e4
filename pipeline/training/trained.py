"""A trained model, taken from its run: what evaluation and prediction start from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import RecipeConfig
from model.recipes import build_model
from model.systems import Recipe, Supervised
from model.towers import Tokenizer, build_tokenizer
from pipeline.training.faces import FaceReader
from pipeline.training.manifest import RunManifest
from pipeline.training.run_directory import Checkpoint
from shards.index import IndexRow


@dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of a checkpoint, ready to embed."""

    model: Recipe
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

    def embed_faces(
        self, reader: FaceReader, rows: Sequence[IndexRow], batch_size: int
    ) -> Iterator[NDArray[np.float32]]:
        """Fused embeddings of samples, [B, D] a batch, in order; without those that the reader skips."""
        directions = reader.directions(rows).to(self.device)
        groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for batch in reader.batches(groups):
            with torch.inference_mode():
                views = batch.views.to(self.device).float() / 255
                _, fused, _ = self.model.embed_faces(views, directions, batch.moments.to(self.device))
            yield fused.float().cpu().numpy()

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
