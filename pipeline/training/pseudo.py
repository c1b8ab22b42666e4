"""Pseudo-labels of a training: before each epoch, which class's prompts each sample lies among, told without a label.

Goes in: the model as it is, and the samples without their labels. Comes out: a class and a prompt for each sample, by
model/pseudo.py. Promised: no label is looked at, and all ranks find the same.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from model.pseudo import pseudo_labels
from model.systems import Recipe
from model.towers import Tokenizer
from pipeline.training.augment import generator_for
from pipeline.training.faces import FaceReader
from shards.index import IndexRow

BATCH_SIZE = 64


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
        rank: int,
        world_size: int,
    ) -> None:
        """Assign all samples anew; each rank embeds a part of them."""
        device = directions.device
        if dist.is_initialized():
            # A tower's running statistics are each rank's own; a run that is resumed has those of the first.
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)
        was_training = model.training
        model.eval()
        embedded = torch.zeros(len(rows), model.config.joint_dim, device=device)
        with torch.inference_mode():
            texts = (model.embed_text(tokenizer(list(self.prompts[name])).to(device)) for name in self.classes)
            anchors = torch.stack([F.normalize(text.float(), dim=-1).mean(dim=0) for text in texts])
            own = list(rows[rank::world_size])
            groups = [own[start : start + BATCH_SIZE] for start in range(0, len(own), BATCH_SIZE)]
            for batch in reader.batches(groups):
                views = batch.views.to(device).float() / 255
                fused = model.embed_faces(views, directions, batch.moments.to(device))[1]
                embedded[[self.numbers[key] for key in batch.keys]] = fused.float()
        if dist.is_initialized():
            dist.all_reduce(embedded)
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
