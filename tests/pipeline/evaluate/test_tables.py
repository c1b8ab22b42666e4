"""The CSV tables next to the report: complete, with all digits, and safe in a spreadsheet."""

import csv
import io

import numpy as np
import pytest

from helpers.crossval_manifests import ACCURACIES, crossval_manifest
from helpers.evaluation_manifests import CLASSES, evaluation_manifest, multilabel_manifest
from helpers.samples import make_row, make_sample
from smile_pipe.pipeline.crossval.scores import scores_csv as crossval_scores_csv
from smile_pipe.pipeline.evaluate.tables import predictions_csv, scores_csv
from smile_pipe.pipeline.runs.evaluation_manifest import ProtocolScore, ViewScore


def read_csv(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def find_row(rows, protocol, measure, **where):
    """Find the row of one score; columns that are not given must be empty."""
    given = {"class": "", "level": "", "views": ""} | where
    (row,) = [
        row for row in rows if (row["protocol"], row["measure"]) == (protocol, measure) and given.items() <= row.items()
    ]
    return row


class TestScores:
    def test_has_every_score_with_all_digits(self):
        manifest = evaluation_manifest()
        rows = read_csv(scores_csv(manifest))
        for name, score in manifest.protocols.items():
            for measure in ("accuracy", "macro_f1", "calibration_error"):
                assert float(find_row(rows, name, measure)["value"]) == getattr(score, measure)
            for c, value in score.per_class.items():
                assert float(find_row(rows, name, "recall", **{"class": c})["value"]) == value
            for level, value in score.per_level.items():
                assert float(find_row(rows, name, "accuracy", level=level)["value"]) == value

    def test_has_intervals(self):
        manifest = evaluation_manifest()
        rows, score = read_csv(scores_csv(manifest)), manifest.protocols["knn"]
        for measure, (low, high) in (("accuracy", score.accuracy_interval), ("macro_f1", score.macro_f1_interval)):
            row = find_row(rows, "knn", measure)
            assert (float(row["low"]), float(row["high"])) == (low, high)
        row = find_row(rows, "knn", "calibration_error")
        assert (row["low"], row["high"]) == ("", "")

    def test_has_scores_of_view_subsets(self):
        parts = (
            ViewScore(views=("front",), accuracy=0.5, macro_f1=0.25, accuracy_interval=(0.4, 0.6)),
            ViewScore(views=("front", "left"), accuracy=0.75, macro_f1=0.7, macro_f1_interval=(0.6, 0.8)),
        )
        rows = read_csv(scores_csv(evaluation_manifest(view_protocol="zero-shot", view_scores=parts)))
        row = find_row(rows, "zero-shot", "accuracy", views="front")
        assert (row["value"], row["low"], row["high"]) == ("0.5", "0.4", "0.6")
        row = find_row(rows, "zero-shot", "macro_f1", views="front+left")
        assert (row["value"], row["low"], row["high"]) == ("0.7", "0.6", "0.8")

    def test_has_retrieval_in_both_directions(self):
        manifest = evaluation_manifest()
        rows, faces = read_csv(scores_csv(manifest)), manifest.retrieval.faces_of_text
        assert float(find_row(rows, "faces of text", "mean_average_precision")["value"]) == faces.mean_average_precision
        for c, value in faces.average_precision.items():
            assert float(find_row(rows, "faces of text", "average_precision", **{"class": c})["value"]) == value
        for k in ("1", "5", "10"):
            assert float(find_row(rows, "faces of text", f"precision_at_{k}")["value"]) == faces.precision_at[k]
            assert float(find_row(rows, "faces of text", f"recall_at_{k}")["value"]) == faces.recall_at[k]
        text = manifest.retrieval.text_of_faces
        assert float(find_row(rows, "text of faces", "recall_at_5")["value"]) == text.recall_at["5"]

    def test_has_binary_labels_of_multilabel_samples(self):
        manifest = multilabel_manifest()
        rows, labels = read_csv(scores_csv(manifest)), manifest.protocols["knn"].labels
        assert float(find_row(rows, "knn", "macro_uf1")["value"]) == labels.macro_uf1
        assert float(find_row(rows, "knn", "uar")["value"]) == labels.uar
        for c, value in labels.f1.items():
            assert float(find_row(rows, "knn", "label_f1", **{"class": c})["value"]) == value
            assert float(find_row(rows, "knn", "label_recall", **{"class": c})["value"]) == labels.recall[c]
        assert not [
            row for row in read_csv(scores_csv(evaluation_manifest())) if row["measure"] in ("macro_uf1", "label_f1")
        ]

    def test_has_one_row_for_each_score(self):
        manifest = evaluation_manifest()
        found = [tuple(row.values())[:5] for row in read_csv(scores_csv(manifest))]
        assert len(found) == len(set(found))
        # Fields of a score that are in the table, and those that are not.
        in_table = {"accuracy", "macro_f1", "per_class", "per_level", "calibration_error", "labels"}
        not_in_table = {"accuracy_interval", "macro_f1_interval", "confusion", "reliability", "num_samples"}
        assert ProtocolScore.model_fields.keys() == in_table | not_in_table


class TestPredictions:
    rows = (
        make_row(make_sample("F0001_HA04WH", "F0001", "HA", level=4)),
        make_row(make_sample("F0002_NE00WH", "F0002", "AN", level=None)),
    )

    def test_has_truth_and_predictions_of_each_sample(self):
        probabilities = {
            "zero-shot": np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]),
            "knn": np.array([[0.0, 1.0, 0.0], [0.0, 0.25, 0.75]]),
        }
        content = predictions_csv(self.rows, CLASSES, probabilities)
        assert content.decode().splitlines() == [
            "key,subject,level,truth,zero-shot,zero-shot probability,knn,knn probability",
            "F0001_HA04WH,F0001,4,HA,smirk,0.7,HA,1.0",
            "F0002_NE00WH,F0002,,AN,AN,0.5,smirk,0.75",
        ]

    @pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1"])
    def test_formula_in_a_name_is_escaped_and_numbers_are_not(self, name):
        sample = make_row(make_sample("F0001_HA04WH", "F0001", "HA"))
        sample.subject = sample.expression = name
        (row,) = read_csv(predictions_csv([sample], (name,), {"knn": np.array([[1.0]])}))
        assert row["subject"] == row["truth"] == row["knn"] == f"'{name}"
        assert (row["level"], row["knn probability"]) == ("4", "1.0")

    @pytest.mark.parametrize(
        ("name", "cell"),
        [('Zoë, "the first"', 'Zoë, "the first"'), ("a\nb", "a\nb"), ("a\r=1", "a =1"), ("\r=1", "' =1")],
    )
    def test_special_characters_stay_in_their_cell(self, name, cell):
        sample = make_row(make_sample())
        sample.subject = name
        (row,) = read_csv(predictions_csv([sample], CLASSES, {"knn": np.eye(3)[:1]}))
        assert (row["key"], row["subject"], row["knn"]) == ("F0001_HA04WH", cell, "AN")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1"])
def test_formula_in_scores_of_folds_is_escaped(name):
    manifest = crossval_manifest()
    scores = {
        each: score.model_copy(
            update={"per_class": {name: 0.25}, "labels": score.labels.model_copy(update={"f1": {name: 0.25}})}
        )
        for each, score in manifest.scores.items()
    }
    folds = tuple(fold.model_copy(update={"split": name}) for fold in manifest.folds)
    rows = read_csv(crossval_scores_csv(manifest.model_copy(update={"scores": scores, "folds": folds})))
    assert {row["of"] for row in rows} == {"all", "level 4", f"'{name}"}
    recalls = [(row["protocol"], row["of"], row["value"]) for row in rows if row["measure"] == "recall"]
    assert recalls == [(protocol, f"'{name}", "0.25") for protocol in ACCURACIES]


def test_scores_of_folds_name_the_view_where_there_is_one():
    for views, expected in ((("left",), {"left"}), (("front", "left"), {""})):
        rows = read_csv(crossval_scores_csv(crossval_manifest(views=views)))
        assert {row["views"] for row in rows} == expected
