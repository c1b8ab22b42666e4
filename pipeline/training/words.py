"""What a batch is told: its prompts as tokens, and what its samples are compared by.

Goes in: a batch as it was read, and where text comes from. Comes out: tokens, and `Targets`. Promised: with `none` and
`pseudo` no label is looked at; equal concepts have equal numbers in every process.
"""

from collections.abc import Sequence
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from model.config import RunTextSource
from model.systems import Recipe, Targets
from model.towers import build_tokenizer
from pipeline.training.faces import Batch, FaceReader
from pipeline.training.pseudo import PseudoPrompts
from shards.index import IndexRow


class BatchWords:
    """The text and the targets of batches; with pseudo-labels those of the epoch that was begun last."""

    def __init__(
        self, source: RunTextSource, model: Recipe, reader: FaceReader, rows: Sequence[IndexRow], seed: int
    ) -> None:
        self.source, self.reads_text = source, model.reads_text
        self.reader, self.rows = reader, rows
        self.tokenizer = build_tokenizer(model.config.arch)
        shards = reader.shards.manifest
        self.classes = {concept_number(name): n for n, name in enumerate(shards.expressions)}
        self.pseudo = PseudoPrompts(shards.prompts, rows, seed) if source == "pseudo" else None

    def begin_epoch(self, model: Recipe, directions: Tensor, rank: int, world_size: int) -> None:
        """Find pseudo-labels anew, where the text is of those."""
        if self.pseudo:
            self.pseudo.refresh(model, self.tokenizer, self.reader, self.rows, directions, rank, world_size)

    def of(self, batch: Batch, epoch: int, device: torch.device) -> tuple[Tensor | None, Targets]:
        """Token ids [B, T], None for a recipe that reads none, and targets."""
        subjects = torch.tensor([concept_number(subject) for subject in batch.subjects], device=device)
        if self.source == "none":
            return None, Targets(None, subjects)
        texts, concepts = self.pseudo.drawn(batch.keys, epoch) if self.pseudo else (batch.texts, batch.concepts)
        numbers = [concept_number(concept) for concept in concepts]
        if not self.reads_text:
            numbers = [self.classes[number] for number in numbers]
            return None, Targets(torch.tensor(numbers, device=device), subjects)
        return self.tokenizer(texts).to(device), Targets(torch.tensor(numbers, device=device), subjects)

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""
        return {"pseudo": self.pseudo.labels} if self.pseudo else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        if self.pseudo:
            self.pseudo.labels = state["pseudo"]


def concept_number(concept: str) -> int:
    """A number for a concept, the same in every process: 63 bits of its BLAKE3 digest."""
    return int.from_bytes(blake3(concept.encode()).digest(length=8), "little") >> 1
