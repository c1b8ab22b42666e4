"""Text and targets of a batch: prompts as tokens, and the numbers by which the losses compare samples.

The prompts are those of the shards, or those of expression knowledge (`knowledge_prompts.py`), or prompts of
pseudo-labels: before each epoch the model assigns each sample to a class by its embedding, without looking at any
label. Equal concepts have equal numbers in every process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from blake3 import blake3
from torch import Tensor

from smile_pipe.model.config import RunTextSource
from smile_pipe.model.pseudo_labels import named_start, pseudo_labels
from smile_pipe.model.recipes import RecipeModel
from smile_pipe.model.towers import Tokenizer, build_tokenizer
from smile_pipe.model.transfer import to_device
from smile_pipe.pipeline.captions.demographics import append_person, describe_person
from smile_pipe.pipeline.captions.exchanges import false_caption
from smile_pipe.pipeline.captions.knowledge import Knowledge
from smile_pipe.pipeline.data.augment import generator_for
from smile_pipe.pipeline.data.dataset import Batch, FaceDataset
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.embedding import embed_rows
from smile_pipe.pipeline.train.knowledge_prompts import KnowledgePrompts, name_samples
from smile_pipe.shards.index import SampleRow


class PseudoPrompts:
    """Pseudo-labels of samples, and prompts drawn for them.

    Attributes:
        labels: Class of each sample, int64 [N] in the order of the rows; empty before the first epoch.
    """

    def __init__(
        self,
        prompts: Mapping[str, tuple[str, ...]],
        rows: Sequence[SampleRow],
        seed: int,
        knowledge: Knowledge | None = None,
    ) -> None:
        self.prompts, self.seed, self.knowledge = dict(prompts), seed, knowledge
        self.names: Tensor | None = None
        self.classes = tuple(self.prompts)
        self.positions = {row.key: position for position, row in enumerate(rows)}
        self.labels = torch.empty(0, dtype=torch.int64)

    def assign(
        self,
        model: RecipeModel,
        tokenizer: Tokenizer,
        dataset: FaceDataset,
        rows: Sequence[SampleRow],
        directions_v3: Tensor,
        worker: Worker,
    ) -> None:
        """Assign all samples to classes by the current model (model/pseudo_labels.py).

        The clusters start at the prompts; with knowledge, at the means of the samples that captions name, and their
        shares are those of the names.

        All ranks must call this together, and get the same labels.
        """
        embedded, _ = embed_rows(model, dataset, rows, directions_v3, worker)
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            tokens = (tokenizer(list(self.prompts[name])) for name in self.classes)
            anchors = torch.stack([F.normalize(model.embed_text(each).float(), dim=-1).mean(dim=0) for each in tokens])
        model.train(was_training)
        shares = None
        if self.knowledge:
            if self.names is None:
                self.names = torch.tensor(name_samples(dataset.shards, rows, self.knowledge, self.classes))
            anchors, shares = named_start(embedded, anchors, self.names)
        self.labels = pseudo_labels(embedded, anchors, shares_k=shares).cpu()

    def draw(self, keys: Sequence[str], epoch: int) -> tuple[list[str], list[str]]:
        """Draw a prompt of its class for each sample, another one each epoch.

        Returns:
            Prompts, and the names of the classes.
        """
        names = [self.classes[int(self.labels[self.positions[key]])] for key in keys]
        texts = []
        for key, name in zip(keys, names, strict=True):
            generator = generator_for(self.seed, epoch, self.positions[key])
            choices = self.prompts[name]
            texts.append(choices[int(torch.randint(len(choices), (), generator=generator))])
        return texts, names


class TextTargets:
    """Text and targets of batches; with pseudo-labels those of the current epoch.

    With the text sources `none`, `knowledge` and `pseudo` no label is used.
    """

    def __init__(
        self,
        source: RunTextSource,
        model: RecipeModel,
        dataset: FaceDataset,
        rows: Sequence[SampleRow],
        seed: int,
        metadata: bool = False,
        knowledge: Knowledge | None = None,
    ) -> None:
        self.source, self.reads_text = source, model.reads_text
        self.needs_false_captions = model.config.crit > 0
        self.dataset, self.rows, self.seed = dataset, rows, seed
        self.tokenizer = build_tokenizer(model.config.arch)
        manifest = dataset.shards.manifest
        self.class_numbers = {concept_id(name): n for n, name in enumerate(manifest.expressions)}
        self.concept_numbers: dict[str, int] = {}
        self.pseudo = PseudoPrompts(manifest.prompts, rows, seed, knowledge) if source == "pseudo" else None
        self.knowledge = (
            KnowledgePrompts(manifest.prompts, knowledge, manifest.text_source, seed)
            if source == "knowledge" and knowledge
            else None
        )
        self.people = {row.key: who for row in rows if (who := describe_person(row.labels))} if metadata else {}

    def start_epoch(self, model: RecipeModel, directions_v3: Tensor, worker: Worker) -> None:
        """Assign new pseudo-labels if the text source is `pseudo`."""
        if self.pseudo:
            self.pseudo.assign(model, self.tokenizer, self.dataset, self.rows, directions_v3, worker)

    def encode(self, batch: Batch, epoch: int, device: torch.device) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Encode the text and the targets of a batch.

        Returns:
            Token ids [B, T] on the CPU, or [B, 2, T] with the false captions of the loss `crit`, None if the recipe
            reads no text; concept ids, int64 [B], None without text; subject ids, int64 [B].
        """
        subject_ids = to_device(torch.tensor([concept_id(subject) for subject in batch.subjects]), device)
        if self.source == "none":
            return None, None, subject_ids
        if self.pseudo:
            texts, concepts = self.pseudo.draw(batch.keys, epoch)
        elif self.knowledge:
            texts, concepts = self.knowledge.draw(batch, epoch)
        else:
            texts, concepts = self._shard_prompts(batch, epoch), batch.concepts
        ids = self._number(concepts)
        if not self.reads_text:
            return None, to_device(torch.tensor([self.class_numbers[number] for number in ids]), device), subject_ids
        tokens = self.tokenizer(texts)
        if self.needs_false_captions:
            tokens = torch.stack([tokens, self.tokenizer(self._false_captions(texts, batch, epoch))], dim=1)
        return tokens, to_device(torch.tensor(ids), device), subject_ids

    def class_tokens(self) -> list[Tensor]:
        """Token ids of the prompts of each class, [P, T], in the order of the numbers of classes."""
        manifest = self.dataset.shards.manifest
        return [self.tokenizer(list(manifest.prompts[name])) for name in manifest.expressions]

    def state(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"pseudo": self.pseudo.labels} if self.pseudo else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
        if self.pseudo:
            self.pseudo.labels = state["pseudo"]

    def _number(self, concepts: Sequence[str]) -> list[int]:
        """Numbers of concepts. A caption is its own concept; captions that are cut to equal tokens are one."""
        new = [concept for concept in dict.fromkeys(concepts) if concept not in self.concept_numbers]
        is_caption = self.source in ("geometry", "au")
        meanings = [str(tokens) for tokens in self.tokenizer(new).tolist()] if is_caption and new else new
        self.concept_numbers |= {concept: concept_id(meaning) for concept, meaning in zip(new, meanings, strict=True)}
        return [self.concept_numbers[concept] for concept in concepts]

    def _false_captions(self, texts: Sequence[str], batch: Batch, epoch: int) -> list[str]:
        """Captions with a false phrase, other ones each epoch; texts that are no captions stay as they are."""
        found = []
        for key, text, caption in zip(batch.keys, texts, batch.captions, strict=True):
            digest = blake3(f"{self.seed} {epoch} {key} false".encode()).digest(length=8)
            found.append(false_caption(text, caption, np.random.default_rng(int.from_bytes(digest, "little"))))
        return found

    def _shard_prompts(self, batch: Batch, epoch: int) -> list[str]:
        """The prompts of the shards; half of those of known people also describe the person.

        Only half, because the prompts that a face is compared with in evaluation do not describe the person.
        """
        return [
            append_person(text, self.people[key])
            if key in self.people and _describes_person(self.seed, epoch, key)
            else text
            for key, text in zip(batch.keys, batch.texts, strict=True)
        ]


def concept_id(concept: str) -> int:
    """Number of a concept, the same in every process: 63 bits of its BLAKE3 digest."""
    return int.from_bytes(blake3(concept.encode()).digest(length=8), "little") >> 1


def _describes_person(seed: int, epoch: int, key: str) -> bool:
    """Whether a prompt describes the person in this epoch: one bit of a digest, the same in every process."""
    return bool(blake3(f"{seed} {epoch} {key}".encode()).digest(length=1)[0] & 1)
