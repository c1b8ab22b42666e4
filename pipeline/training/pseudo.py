"""Pseudo-labels of a training: before each epoch, which class's prompts each sample lies among, told without a label.

Goes in: the model as it is, and the samples without their labels. Comes out: a class and a prompt for each sample, by
model/pseudo.py. Promised: no label is looked at, and all ranks find the same.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.pseudo import pseudo_labels
from model.systems import Recipe
from model.towers import Tokenizer
from pipeline.training.assignment import Worker
from pipeline.training.augment import generator_for
from pipeline.training.embedding import embed_rows
from pipeline.training.faces import FaceReader
from shards.index import IndexRow


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
        model: Recipe,
        tokenizer: Tokenizer,
        reader: FaceReader,
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
