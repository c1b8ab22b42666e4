"""Embed all samples of an evaluation once; all protocols and metrics start from these embeddings."""

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
from smile_pipe.shards.index import SampleRow


@dataclass(frozen=True)
class EmbeddingSet:
    """Embeddings and labels of N samples, those to fit on before those to score.

    Attributes:
        views: embeddings of each view, float32 [N, V, D].
        directions: unit vectors from the face towards each view's camera, float32 [V, 3].
        x: fused embeddings, float32 [N, D].
        y: class indices into `classes`, int64 [N].
        subjects: subject of each sample, [N].
        classes: the candidates, of which each protocol chooses one (`candidate_classes`).
        train_rows: rows of the samples to fit on.
        test_rows: rows of the samples to score.
        num_skipped: number of damaged samples that were left out.
    """

    views: NDArray[np.float32]
    directions: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    subjects: NDArray[np.str_]
    classes: tuple[str, ...]
    train_rows: list[SampleRow]
    test_rows: list[SampleRow]
    num_skipped: int

    @property
    def num_train(self) -> int:
        """Number of samples to fit on."""
        return len(self.train_rows)

    @property
    def test_labels(self) -> Labels:
        """Labels of the samples to score."""
        return Labels(
            y=self.y[self.num_train :],
            classes=self.classes,
            levels=[row.level for row in self.test_rows],
            subjects=[row.subject for row in self.test_rows],
            is_multilabel=any(len(expressions_of(row.expression)) > 1 for row in (*self.train_rows, *self.test_rows)),
        )


def embed(
    model: TrainedModel,
    dataset: FaceDataset,
    train_rows: Sequence[SampleRow],
    test_rows: Sequence[SampleRow],
    classes: tuple[str, ...],
    batch_size: int,
    on_progress: Callable[[int, int], None],
    fit_dataset: FaceDataset | None = None,
) -> EmbeddingSet:
    """Embed the samples to fit on and those to score.

    Args:
        model: the trained model.
        dataset: reader of `test_rows`, and of `train_rows` unless there is a `fit_dataset`.
        train_rows: samples to fit on.
        test_rows: samples to score.
        classes: the candidates; the expression of each row is one of them.
        batch_size: number of samples at a time.
        on_progress: called with the number of embedded samples and their total.
        fit_dataset: reader of `train_rows`, if they are in other shards.

    Raises:
        UsageError: the two shard sets were rendered with different cameras.
        BadSampleError: a sample is damaged, or, if these are skipped, all samples to score are.
    """
    streams = (
        [(fit_dataset, train_rows), (dataset, test_rows)] if fit_dataset else [(dataset, [*train_rows, *test_rows])]
    )
    num_rows = len(train_rows) + len(test_rows)
    views: list[NDArray[np.float32]] = []
    fused: list[NDArray[np.float32]] = []
    for stream, rows in streams:
        for batch in model.embed_views(stream, rows, batch_size) if rows else ():
            views.append(batch.views)
            fused.append(batch.fused)
            on_progress(sum(map(len, fused)), num_rows)
    good_train = [row for row in train_rows if row.key not in (fit_dataset or dataset).skipped]
    good_test = [row for row in test_rows if row.key not in dataset.skipped]
    if not good_test:
        raise no_readable_sample(dataset.shards, len(test_rows))
    if fit_dataset and good_train:
        _check_cameras(fit_dataset, good_train, dataset, good_test)
    good = [*good_train, *good_test]
    numbers = {expression: number for number, expression in enumerate(classes)}
    return EmbeddingSet(
        views=np.concatenate(views),
        directions=dataset.directions(good_test).numpy(),
        x=np.concatenate(fused),
        y=np.array([numbers[row.expression] for row in good]),
        subjects=np.array([row.subject for row in good]),
        classes=classes,
        train_rows=good_train,
        test_rows=good_test,
        num_skipped=num_rows - len(good),
    )


def _check_cameras(
    fit_dataset: FaceDataset, train_rows: Sequence[SampleRow], dataset: FaceDataset, test_rows: Sequence[SampleRow]
) -> None:
    fit_directions, test_directions = fit_dataset.directions(train_rows), dataset.directions(test_rows)
    if fit_directions.shape != test_directions.shape or not torch.allclose(fit_directions, test_directions, atol=1e-3):
        raise UsageError("was rendered with another rig than `shards`; render both with the same rig", field="fit_on")
