"""View ablation: which subsets of views are scored, that fusion ignores other views, and the scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import tiny_arch
from helpers.samples import make_timeline, write_shard_set
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.classifiers.knn import knn
from smile_pipe.pipeline.classifiers.metrics import score
from smile_pipe.pipeline.classifiers.zero_shot import zero_shot
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.evaluate import protocols
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet, embed
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.evaluate.view_ablation import view_protocol, view_scores, view_subsets
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.shards.reader import ShardSet

VIEWS = ("front", "left", "right")


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> str:
    return tiny_arch.register(tmp_path_factory.mktemp("arch"), "tiny-views-vit")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    """Twelve scans and sequences of four subjects, from three views."""
    root: Path = tmp_path_factory.mktemp("shards") / "shards"
    write_shard_set(root, num_subjects=4, channels=("rgb",), timelines=(None, make_timeline(3)))
    return ShardSet.open(str(root))


def trained(arch: str, name: str) -> TrainedModel:
    """A model with random weights that depends on the directions of views and on attention between views."""
    torch.manual_seed(0)
    model = build_model(RecipeConfig(name=name, arch=arch, joint_dim=8, num_classes=3)).eval()
    torch.nn.init.normal_(model.fusion.from_direction.weight, std=0.3)
    torch.nn.init.normal_(model.fusion.score.weight, std=0.3)
    if name == "facet-vlm":
        torch.nn.init.normal_(model.aggregation.attention.out_proj.weight)
    return TrainedModel(model, lambda texts: torch.zeros(len(texts), 1, dtype=torch.int64), torch.device("cpu"))


def reader_of(shards: ShardSet) -> FaceDataset:
    return FaceDataset(shards, DecodeSpec(("rgb",), tiny_arch.IMAGE_SIZE, "frames"), 0)


def make_embeddings(model: TrainedModel, shards: ShardSet, num_train: int = 9) -> EmbeddingSet:
    """Embeddings of three samples per subject; by default the last subject is scored."""
    rows = list(shards.rows)
    classes = shards.manifest.expressions
    return embed(model, reader_of(shards), rows[:num_train], rows[num_train:], classes, 4, lambda done, total: None)


def embed_only(model: ContrastiveModel, shards: ShardSet, views: list[int]) -> np.ndarray:
    """Embeddings of images of these views only, [N, D]."""
    reader = reader_of(shards)
    (batch,) = reader.batches([shards.rows])
    images, directions = batch.views[:, views].float() / 255, reader.directions(shards.rows)[views]
    with torch.inference_mode():
        return model.embed_faces(images, directions, batch.frames)[1].numpy()


def predictor_of(model: TrainedModel, data: EmbeddingSet, **changes) -> ProtocolPredictor:
    # Prompts in the direction in which a class differs from the others; random weights would predict one class only.
    prompts = {name: data.x[data.y == n] - data.x.mean(axis=0) for n, name in enumerate(data.classes)}
    return ProtocolPredictor(
        **{"model": model, "data": data, "prompts": prompts, "anchor_classes": (), "seed": 0} | changes
    )


@pytest.fixture
def model(arch) -> TrainedModel:
    return trained(arch, "smile-vlm")


@pytest.fixture
def data(model, shards) -> EmbeddingSet:
    return make_embeddings(model, shards)


class TestSubsets:
    def test_up_to_three_views_have_all_subsets(self):
        assert view_subsets(1) == [(0,)]
        assert view_subsets(2) == [(0,), (1,), (0, 1)]
        assert view_subsets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]

    def test_more_views_have_each_alone_all_but_each_and_all(self):
        found = view_subsets(5)
        assert len(found) == 11 and found[:5] == [(0,), (1,), (2,), (3,), (4,)] and found[-1] == (0, 1, 2, 3, 4)
        assert {frozenset(range(5)) - set(part) for part in found[5:10]} == {frozenset([v]) for v in range(5)}


class TestFusion:
    @pytest.mark.parametrize("name", ["smile-vlm", "facet-vlm"])
    def test_fusion_of_all_views_is_the_embedding_of_the_face(self, arch, shards, name):
        model = trained(arch, name)
        data = make_embeddings(model, shards)
        np.testing.assert_allclose(data.x, embed_only(model.model, shards, [0, 1, 2]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.fuse(data.views, data.directions), data.x, rtol=1e-4, atol=1e-5)
        parts = list(model.embed_faces(reader_of(shards), list(shards.rows), 4))
        assert [len(part) for part in parts] == [4, 4, 4] and np.array_equal(np.concatenate(parts), data.x)

    @pytest.mark.parametrize("name", ["smile-vlm", "facet-vlm"])
    @pytest.mark.parametrize("part", view_subsets(3)[:-1])
    def test_fusion_of_a_subset_ignores_the_other_views(self, arch, shards, name, part):
        model, views = trained(arch, name), list(part)
        data = make_embeddings(model, shards)
        found = model.fuse(data.views[:, views], data.directions[views])
        np.testing.assert_allclose(found, embed_only(model.model, shards, views), rtol=1e-4, atol=1e-5)
        assert not np.allclose(found, data.x, atol=1e-3)


class TestEmbeddingSet:
    def test_train_rows_come_first_and_test_rows_keep_their_labels(self, data, shards):
        rows = list(shards.rows)
        assert (data.train_rows, data.test_rows, data.num_train, data.num_skipped) == (rows[:9], rows[9:], 9, 0)
        assert data.views.shape == (12, 3, 8) and data.directions.shape == (3, 3)
        assert [data.classes[n] for n in data.y] == [row.expression for row in rows]
        assert data.subjects.tolist() == [row.subject for row in rows]
        test_labels = data.test_labels
        assert [test_labels.classes[n] for n in test_labels.y] == [row.expression for row in rows[9:]]
        assert test_labels.levels == [row.level for row in rows[9:]] and test_labels.subjects == ["F0004"] * 3
        assert not test_labels.is_multilabel

    @pytest.mark.parametrize("side", ["train_rows", "test_rows"])
    def test_one_multilabel_sample_makes_the_labels_multilabel(self, data, side):
        rows = getattr(data, side)
        several = replace(data, **{side: [replace(rows[0], expression="HA;SU"), *rows[1:]]})
        assert several.test_labels.is_multilabel


class TestPredictor:
    def test_zero_shot_uses_test_samples_and_temperature_of_the_run(self, model, data):
        with torch.no_grad():
            model.model.log_scale.fill_(2.0)
        predictor = predictor_of(model, data)
        found = predictor.probabilities("zero-shot", predictor.data.x)
        assert found.shape == (3, 3)
        assert found == pytest.approx(zero_shot(predictor.data.x[9:], predictor.prompts, np.exp(2.0)))

    def test_probe_of_all_views_is_fitted_once(self, model, data, monkeypatch):
        fits, real = [], protocols.fit_probe
        monkeypatch.setattr(protocols, "fit_probe", lambda *given: fits.append(1) or real(*given))
        predictor = predictor_of(model, data)
        found = predictor.probabilities("probe", data.x)
        assert predictor.probe is not None and len(fits) == 1
        assert (found == predictor.probe.probabilities(data.x[9:], 3)).all()
        # Other embeddings need another fit.
        predictor.probabilities("probe", data.x[:, ::-1].copy())
        assert len(fits) == 2

    def test_classifier_ignores_classes_that_the_shards_lack(self, arch, shards):
        model = trained(arch, "supervised")
        data = make_embeddings(model, shards)
        # The model was trained on shards with surprise, without sadness.
        predictor = predictor_of(model, data, anchor_classes=("SU", "NE", "HA"))
        found = predictor.probabilities("classifier", data.x)
        logits = model.scale * model.classify(data.x[9:])[:, [2, 1]].astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert data.classes == ("HA", "SA", "NE")
        assert found[:, [0, 2]] == pytest.approx(shares) and (found[:, 1] == 0).all()

    def test_finetune_raises_for_embeddings(self, model, data):
        predictor = predictor_of(model, data)
        with pytest.raises(ValueError, match="from images"):
            predictor.probabilities("finetune", predictor.data.x)


class TestScores:
    def test_fastest_requested_protocol_is_scored(self):
        assert view_protocol(["probe", "knn", "zero-shot"]) == "zero-shot"
        assert view_protocol(["finetune", "knn", "classifier"]) == "classifier"
        assert view_protocol(["probe", "knn"]) == "knn"
        assert view_protocol(["finetune", "probe"]) == "probe"
        assert view_protocol(["finetune"]) is None

    def test_zero_shot_is_scored_from_each_subset(self, model, shards, monkeypatch):
        predictor = predictor_of(model, make_embeddings(model, shards, num_train=0))
        seen, real = [], ProtocolPredictor.probabilities
        monkeypatch.setattr(
            ProtocolPredictor, "probabilities", lambda self, name, x: seen.append(x) or real(self, name, x)
        )
        found = view_scores(predictor, "zero-shot", VIEWS, 0)
        assert [part.views for part in found] == [tuple(VIEWS[v] for v in part) for part in view_subsets(3)]
        for part, embeddings in zip(found, seen, strict=True):
            x = embed_only(model.model, shards, [VIEWS.index(view) for view in part.views])
            np.testing.assert_allclose(embeddings, x, rtol=1e-4, atol=1e-5)
            expected = score(predictor.data.test_labels, zero_shot(x, predictor.prompts, model.scale))
            assert (part.accuracy, part.macro_f1) == (expected.accuracy, expected.macro_f1)
        assert len({part.accuracy for part in found}) > 1

    def test_neighbours_use_the_same_subset_of_views(self, model, data, shards):
        found = view_scores(predictor_of(model, data), "knn", VIEWS, 0)
        for part in found:
            x = embed_only(model.model, shards, [VIEWS.index(view) for view in part.views])
            expected = score(data.test_labels, knn(x[:9], data.y[:9], x[9:], 3))
            assert (part.accuracy, part.macro_f1) == (expected.accuracy, expected.macro_f1)

    def test_intervals_use_the_seed(self, model, shards):
        data = make_embeddings(model, shards, num_train=0)
        # These images are alike for all subjects, and would be read alike; with labels that are drawn they are not.
        data = replace(data, y=np.random.default_rng(0).integers(0, 3, len(data.y)))
        predictor = predictor_of(model, data)
        predicted = predictor.probabilities("zero-shot", data.x)
        by_seed = [score(data.test_labels, predicted, seed) for seed in range(20)]
        seed = next(n for n, one in enumerate(by_seed) if one.macro_f1_interval != by_seed[0].macro_f1_interval)
        whole = view_scores(predictor, "zero-shot", VIEWS, seed)[-1]
        assert whole.accuracy_interval == by_seed[seed].accuracy_interval
        assert whole.macro_f1_interval == by_seed[seed].macro_f1_interval
