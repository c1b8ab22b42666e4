"""Read the predictions that evaluations store, `predictions.csv`, of the folds of a cross-validation."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


@dataclass(frozen=True)
class PredictionTable:
    """The predictions of N samples.

    Attributes:
        keys, subjects, truth: name, subject and expression of each sample, [N].
        predicted: predicted expression of each sample by protocol, each [N].
    """

    keys: NDArray[np.str_]
    subjects: NDArray[np.str_]
    truth: NDArray[np.str_]
    predicted: Mapping[str, NDArray[np.str_]]

    @classmethod
    def read(cls, path: StoragePath) -> Self:
        """Read the predictions of one evaluation.

        Raises:
            UsageError: the file does not exist or is not such a table.
        """
        try:
            rows = list(csv.DictReader(io.StringIO(path.read_text()), strict=True))
            names = [name for name in PROTOCOL_TITLES if rows and name in rows[0]]
            keys, subjects, truth, *predicted = (
                np.array([row[name] for row in rows], np.str_) for name in ("key", "subject", "truth", *names)
            )
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise UsageError(f"{path}: no predictions of an evaluation ({error}); evaluate the run again") from None
        return cls(keys, subjects, truth, dict(zip(names, predicted, strict=True)))

    @classmethod
    def join(cls, tables: Sequence[Self]) -> Self:
        """Join the tables of all folds, with the protocols that all have."""
        names = [name for name in tables[0].predicted if all(name in table.predicted for table in tables)]
        return cls(
            keys=np.concatenate([table.keys for table in tables]),
            subjects=np.concatenate([table.subjects for table in tables]),
            truth=np.concatenate([table.truth for table in tables]),
            predicted={name: np.concatenate([table.predicted[name] for table in tables]) for name in names},
        )

    def sorted_by_key(self) -> Self:
        """Return the samples in the order of their keys, in which tables of the same samples are equal."""
        order = np.argsort(self.keys)
        predicted = {name: values[order] for name, values in self.predicted.items()}
        return replace(
            self, keys=self.keys[order], subjects=self.subjects[order], truth=self.truth[order], predicted=predicted
        )

    def accuracy(self, protocol: str) -> float:
        """Share of correct predictions."""
        return float(np.mean(self.predicted[protocol] == self.truth))

    def num_correct(self, protocol: str, subjects: Sequence[str]) -> NDArray[np.int64]:
        """Number of correct predictions of each of some subjects."""
        is_correct = self.predicted[protocol] == self.truth
        return np.array([is_correct[self.subjects == subject].sum() for subject in subjects])
