"""What a batch is told: its prompts as tokens, and what its samples are compared by.

Goes in: a batch as it was read, and where text comes from. Comes out: tokens, and `Targets`. Promised: with `none` and
`pseudo` no label is looked at; equal concepts have equal numbers in every process; a text says who is shown as a
function of (seed, epoch, key), and only where `metadata` is asked for.
"""

from collections.abc import Sequence
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from model.config import RunTextSource
from model.systems import Recipe, Targets
from model.towers import build_tokenizer
from pipeline.prompts.people import person, with_person
from pipeline.training.assignment import Worker
from pipeline.training.faces import Batch, FaceReader
from pipeline.training.pseudo import PseudoPrompts
from shards.index import IndexRow


class BatchWords:
    """The text and the targets of batches; with pseudo-labels those of the epoch that was begun last."""

    def __init__(
        self,
        source: RunTextSource,
        model: Recipe,
        reader: FaceReader,
        rows: Sequence[IndexRow],
        seed: int,
        metadata: bool = False,
    ) -> None:
        self.source, self.reads_text = source, model.reads_text
        self.reader, self.rows, self.seed = reader, rows, seed
        self.tokenizer = build_tokenizer(model.config.arch)
        shards = reader.shards.manifest
        self.classes = {concept_number(name): n for n, name in enumerate(shards.expressions)}
        self.pseudo = PseudoPrompts(shards.prompts, rows, seed) if source == "pseudo" else None
        told = rows if metadata else ()
        self.people = {row.key: who for row in told if (who := person(row.labels))}

    def begin_epoch(self, model: Recipe, directions: Tensor, worker: Worker) -> None:
        """Find pseudo-labels anew, where the text is of those."""
        if self.pseudo:
            self.pseudo.refresh(model, self.tokenizer, self.reader, self.rows, directions, worker)

    def of(self, batch: Batch, epoch: int, device: torch.device) -> tuple[Tensor | None, Targets]:
        """Token ids [B, T], None for a recipe that reads none, and targets."""
        subjects = torch.tensor([concept_number(subject) for subject in batch.subjects], device=device)
        if self.source == "none":
            return None, Targets(None, subjects)
        if self.pseudo:
            texts, concepts = self.pseudo.drawn(batch.keys, epoch)
        else:
            texts, concepts = self._carried(batch, epoch), batch.concepts
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

    def _carried(self, batch: Batch, epoch: int) -> list[str]:
        """The prompts of the shards; where it is known who is shown, half of them say so.

        Only half, since the prompts that a face is later compared with do not.
        """
        return [
            with_person(text, self.people[key]) if key in self.people and _says_who(self.seed, epoch, key) else text
            for key, text in zip(batch.keys, batch.texts, strict=True)
        ]


def concept_number(concept: str) -> int:
    """A number for a concept, the same in every process: 63 bits of its BLAKE3 digest."""
    return int.from_bytes(blake3(concept.encode()).digest(length=8), "little") >> 1


def _says_who(seed: int, epoch: int, key: str) -> bool:
    """Whether a sample's text says who is shown in an epoch: one bit of a digest, the same in every process."""
    return bool(blake3(f"{seed} {epoch} {key}".encode()).digest(length=1)[0] & 1)
