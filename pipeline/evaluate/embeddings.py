"""Samples become embeddings, once: what all protocols and measures start from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.metrics import Labels
from smile_pipe.pipeline.common.expressions import expressions_of
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.integrity import no_readable_sample
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow


@dataclass(frozen=True)
class EmbeddingSet:
    """N samples as the protocols take them, those to fit on first.

    Attributes:
        views: embeddings of each view, [N, V, D].
        directions: from the face towards each view's camera, [V, 3].
        x: fused embeddings, [N, D].
        y: classes, numbered as in `classes`, [N].
        subjects: whose samples they are, [N].
        classes: the expressions of the shards' manifest.
        fitted, scored: the rows of the samples to fit on, and of the others.
        num_skipped: samples that are not among them, as they are damaged.
    """

    views: NDArray[np.float32]
    directions: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    subjects: NDArray[np.str_]
    classes: tuple[str, ...]
    fitted: list[IndexRow]
    scored: list[IndexRow]
    num_skipped: int

    @property
    def num_train(self) -> int:
        """How many are to fit on."""
        return len(self.fitted)

    @property
    def truth(self) -> Labels:
        """What the scored samples are."""
        return Labels(
            y=self.y[self.num_train :],
            classes=self.classes,
            levels=[row.level for row in self.scored],
            subjects=[row.subject for row in self.scored],
            is_multilabel=any(len(expressions_of(row.expression)) > 1 for row in (*self.fitted, *self.scored)),
        )


def embed(
    model: TrainedModel,
    reader: FaceDataset,
    train_rows: Sequence[IndexRow],
    test_rows: Sequence[IndexRow],
    batch_size: int,
    on_progress: Callable[[int, int], None],
    fit_reader: FaceDataset | None = None,
) -> EmbeddingSet:
    """Embed the samples to fit on, which `fit_reader` reads where they lie elsewhere, and those to score.

    Raises:
        UsageError: the two sides were seen from other directions.
        BadSampleError: a sample is damaged, or where these are skipped, all to score are.
    """
    streams = [(fit_reader, train_rows), (reader, test_rows)] if fit_reader else [(reader, [*train_rows, *test_rows])]
    num_rows = len(train_rows) + len(test_rows)
    views: list[NDArray[np.float32]] = []
    fused: list[NDArray[np.float32]] = []
    for read, rows in streams:
        for part in model.embed_views(read, rows, batch_size) if rows else ():
            views.append(part.views)
            fused.append(part.fused)
            on_progress(sum(map(len, fused)), num_rows)
    fitted = [row for row in train_rows if row.key not in (fit_reader or reader).skipped]
    scored = [row for row in test_rows if row.key not in reader.skipped]
    if not scored:
        raise no_readable_sample(reader.shards, len(test_rows))
    if fit_reader and fitted:
        _check_rigs(fit_reader, fitted, reader, scored)
    good, classes = [*fitted, *scored], reader.shards.manifest.expressions
    numbers = {expression: number for number, expression in enumerate(classes)}
    return EmbeddingSet(
        views=np.concatenate(views),
        directions=reader.directions(scored).numpy(),
        x=np.concatenate(fused),
        y=np.array([numbers[row.expression] for row in good]),
        subjects=np.array([row.subject for row in good]),
        classes=classes,
        fitted=fitted,
        scored=scored,
        num_skipped=num_rows - len(good),
    )


def _check_rigs(
    fit_reader: FaceDataset, fitted: Sequence[IndexRow], reader: FaceDataset, scored: Sequence[IndexRow]
) -> None:
    fit, own = fit_reader.directions(fitted), reader.directions(scored)
    if fit.shape != own.shape or not torch.allclose(fit, own, atol=1e-3):
        raise UsageError(
            "was rendered with another rig than `shards`; render one of them with the other's", field="fit_on"
        )
