"""Manifests of cross-validations of an earlier release: the mean macro-F1 of folds is replaced by the pooled one."""

import json

import numpy as np
import pytest
from sklearn import metrics

from helpers.crossval_manifests import crossval_manifest
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.shards.errors import UsageError


def version_1(confusion) -> str:
    written = json.loads(crossval_manifest().model_dump_json()) | {"schema_version": 1}
    for score in written["scores"].values():
        del score["pooled"]
        score |= {"macro_f1": {"mean": 0.9, "deviation": 0.1}, "confusion": confusion}
    return json.dumps(written)


def test_macro_f1_is_computed_from_the_confusion_of_all_folds():
    confusion = np.array([[7, 2], [1, 6]])
    truth, predicted = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices((2, 2)))
    for score in CrossvalManifest.parse(version_1(confusion.tolist()), "manifest.json").scores.values():
        assert score.pooled.macro_f1 == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
        assert score.pooled.accuracy == pytest.approx(13 / 16)
        assert score.pooled.macro_f1_interval is None


@pytest.mark.parametrize("confusion", [[["a"]], 5, [1, 2], [[1], [2, 3]], None])
def test_invalid_confusion_is_an_error(confusion):
    with pytest.raises(UsageError, match="not a valid CrossvalManifest"):
        CrossvalManifest.parse(version_1(confusion), "manifest.json")
