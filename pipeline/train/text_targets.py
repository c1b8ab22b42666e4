"""Pseudo-labels of a training: before each epoch, which class's prompts each sample lies among, told without a label.

Goes in: the model as it is, and the samples without their labels. Comes out: a class and a prompt for each sample, by
model/pseudo_labels.py. Promised: no label is looked at, and all ranks find the same.

What a batch is told: its prompts as tokens, and what its samples are compared by.

Goes in: a batch as it was read, and where text comes from. Comes out: tokens, and `Targets`. Promised: with `none` and
`pseudo` no label is looked at; equal concepts have equal numbers in every process; a text says who is shown as a
function of (seed, epoch, key), and only where `metadata` is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from blake3 import blake3
from torch import Tensor

from smile_pipe.model.config import RunTextSource
from smile_pipe.model.objectives import ContrastiveModel, Targets
from smile_pipe.model.pseudo_labels import pseudo_labels
from smile_pipe.model.towers import Tokenizer, build_tokenizer
from smile_pipe.pipeline.captions.demographics import append_person, describe_person
from smile_pipe.pipeline.data.augment import generator_for
from smile_pipe.pipeline.data.dataset import Batch, FaceDataset
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.validation import embed_rows
from smile_pipe.shards.index import IndexRow


class PseudoPrompts:
    """Classes of samples by key, and prompts that are drawn for them.

    Attributes:
        labels: the class of each sample, int64 [N] in the order of the rows; none before the first epoch.
    """

    def __init__(self, prompts: Mapping[str, tuple[str, ...]], rows: Sequence[IndexRow], seed: int) -> None:
        self.prompts, self.seed = dict(prompts), seed
        self.classes = tuple(self.prompts)
        self.numbers = {row.key: number for number, row in enumerate(rows)}
        self.labels = torch.empty(0, dtype=torch.int64)

    def refresh(
        self,
        model: ContrastiveModel,
        tokenizer: Tokenizer,
        reader: FaceDataset,
        rows: Sequence[IndexRow],
        directions: Tensor,
        worker: Worker,
    ) -> None:
        """Assign all samples anew; all ranks must ask together."""
        embedded, _ = embed_rows(model, reader, rows, directions, worker)
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            tokens = (tokenizer(list(self.prompts[name])).to(directions.device) for name in self.classes)
            anchors = torch.stack([F.normalize(model.embed_text(each).float(), dim=-1).mean(dim=0) for each in tokens])
        model.train(was_training)
        self.labels = pseudo_labels(embedded, anchors).cpu()

    def drawn(self, keys: Sequence[str], epoch: int) -> tuple[list[str], list[str]]:
        """A prompt for each sample, another one each epoch, and the class that it is of."""
        names = [self.classes[int(self.labels[self.numbers[key]])] for key in keys]
        texts = []
        for key, name in zip(keys, names, strict=True):
            generator = generator_for(self.seed, epoch, self.numbers[key])
            choices = self.prompts[name]
            texts.append(choices[int(torch.randint(len(choices), (), generator=generator))])
        return texts, names


class TextTargets:
    """The text and the targets of batches; with pseudo-labels those of the epoch that was begun last."""

    def __init__(
        self,
        source: RunTextSource,
        model: ContrastiveModel,
        reader: FaceDataset,
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
        self.people = {row.key: who for row in told if (who := describe_person(row.labels))}

    def begin_epoch(self, model: ContrastiveModel, directions: Tensor, worker: Worker) -> None:
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
            append_person(text, self.people[key]) if key in self.people and _says_who(self.seed, epoch, key) else text
            for key, text in zip(batch.keys, batch.texts, strict=True)
        ]


def concept_number(concept: str) -> int:
    """A number for a concept, the same in every process: 63 bits of its BLAKE3 digest."""
    return int.from_bytes(blake3(concept.encode()).digest(length=8), "little") >> 1


def _says_who(seed: int, epoch: int, key: str) -> bool:
    """Whether a sample's text says who is shown in an epoch: one bit of a digest, the same in every process."""
    return bool(blake3(f"{seed} {epoch} {key}".encode()).digest(length=1)[0] & 1)
