"""Every recipe in the training stage: training, and independence of labels where it is promised."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import small_runs
from helpers.samples import make_table
from helpers.small_runs import same, weights
from smile_pipe.model.config import RECIPES
from smile_pipe.pipeline.evaluate import stage as evaluate
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train import stage as train
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.shards import reader
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet

OPTIONS = {"epochs": 2, "batch_size": 8, "split": "kfold:5:0"}


@pytest.fixture(autouse=True)
def in_process(monkeypatch) -> None:
    """Train in this process, without Ray."""
    monkeypatch.setattr(train, "_in_process", lambda config: True)
    monkeypatch.setattr(render, "_in_process", lambda config: True)


@pytest.fixture(scope="module")
def measured_dir(faces_dir, tmp_path_factory) -> Path:
    """Shards with captions measured on landmarks."""
    out = tmp_path_factory.mktemp("measured") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_in_process", lambda config: True)
        render.run(RenderConfig(data_dir=faces_dir, out=out, size=48, samples_per_shard=8, text="geometry"))
    return out


def config(shards: Path, out: Path, **options) -> TrainConfig:
    return TrainConfig(shards=str(shards), out=out, **(OPTIONS | options))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains_and_is_evaluated(shards_dir, tmp_path, recipe):
    manifest = train.run(config(shards_dir, tmp_path / "run", recipe=recipe))
    about = RECIPES[recipe]
    assert manifest.final_losses.keys() == {f"loss_{name}" for name in (*about.weights, "total")}
    assert manifest.text_source == {"none": "none", "pseudo": "pseudo"}.get(about.text, "label")
    result = evaluate.run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir)))
    first = ["classifier"] if about.has_classifier else [] if recipe == "barlow" else ["zero-shot"]
    assert list(result.protocols) == [*first, "knn", "probe"]


def test_drop_loss_removes_terms(shards_dir, tmp_path):
    manifest = train.run(config(shards_dir, tmp_path / "run", drop_loss=("mv", "cm"), epochs=1))
    assert manifest.final_losses.keys() == {"loss_vl", "loss_total"}
    assert manifest.recipe["without"] == ["mv", "cm"]
    train.run(config(shards_dir, tmp_path / "clip", recipe="clip", epochs=1))
    assert same(weights(tmp_path / "run"), weights(tmp_path / "clip"))


def test_learned_scalars_are_logged(shards_dir, tmp_path):
    train.run(config(shards_dir, tmp_path / "run", recipe="affect-vlm", epochs=1))
    assert 0.05 < RunDirectory(tmp_path / "run").metrics()[-1]["margin"] < 0.6


@pytest.mark.parametrize(
    "options", [{"recipe": "barlow"}, {"text": "none"}, {"recipe": "smile-vlm", "drop_loss": "vl,cm"}]
)
def test_losses_between_views_alone_need_two_views(tmp_path, options):
    shards = small_runs.write_shards(tmp_path)
    prepare(small_runs.config(shards, tmp_path / "run", **options), in_process=True)
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(manifest | {"views": ["front"]}))
    with pytest.raises(UsageError, match="compares views with each other, and the shards have only one view"):
        prepare(small_runs.config(shards, tmp_path / "run", **options), in_process=True)
    prepare(small_runs.config(shards, tmp_path / "run", recipe="clip"), in_process=True)


class TestWithoutLabels:
    """Permuting the labels in the index and in every record changes nothing."""

    @pytest.fixture
    def exchange(self, monkeypatch) -> Iterator[None]:
        of_subjects, from_members = ShardSet.of_subjects, reader.from_members
        codes = ["AN", "DI", "FE", "HA", "SA", "SU", "NE"]

        def other(label: str, key: str) -> str:
            return codes[(codes.index(label) + len(key) + sum(map(ord, key))) % len(codes)]

        def exchanged_rows(shards, subjects):
            return make_table(
                replace(row, expression=other(row.expression, row.key), level=None, labels={})
                for row in of_subjects(shards, subjects)
            )

        def exchanged_sample(members):
            sample = from_members(members)
            record = sample.record
            changed = {"expression": other(record.expression, record.key), "level": None, "labels": {}}
            if record.text_source == "label":
                changed["concept"] = changed["expression"]
                text = f"the face of {changed['expression']}"
            else:
                text = sample.text
            return replace(sample, record=record.model_copy(update=changed), text=text)

        def exchange() -> None:
            monkeypatch.setattr(ShardSet, "of_subjects", exchanged_rows)
            monkeypatch.setattr(reader, "from_members", exchanged_sample)

        return exchange

    @pytest.mark.parametrize(
        "options", [{"text": "none"}, {"text": "pseudo"}, {"recipe": "multiview-vlm"}, {"recipe": "barlow"}]
    )
    def test_labels_do_not_matter_without_text_or_with_pseudo_labels(self, shards_dir, tmp_path, exchange, options):
        train.run(config(shards_dir, tmp_path / "true", **options))
        exchange()
        train.run(config(shards_dir, tmp_path / "exchanged", **options))
        assert same(weights(tmp_path / "true"), weights(tmp_path / "exchanged"))

    def test_labels_do_not_matter_with_geometry_captions(self, measured_dir, tmp_path, exchange):
        train.run(config(measured_dir, tmp_path / "true"))
        exchange()
        manifest = train.run(config(measured_dir, tmp_path / "exchanged"))
        assert manifest.text_source == "geometry"
        assert same(weights(tmp_path / "true"), weights(tmp_path / "exchanged"))

    def test_labels_do_not_matter_with_pseudo_labels_that_start_at_knowledge(self, measured_dir, tmp_path, exchange):
        options = {"recipe": "multiview-vlm", "pseudo_start": "knowledge"}
        train.run(config(measured_dir, tmp_path / "true", **options))
        train.run(config(measured_dir, tmp_path / "prompts", recipe="multiview-vlm"))
        exchange()
        train.run(config(measured_dir, tmp_path / "exchanged", **options))
        assert same(weights(tmp_path / "true"), weights(tmp_path / "exchanged"))
        assert not same(weights(tmp_path / "true"), weights(tmp_path / "prompts"))

    @pytest.mark.parametrize("recipe", ["smile-vlm", "facet-vlm"])
    def test_labels_do_not_matter_with_knowledge(self, measured_dir, tmp_path, exchange, recipe):
        train.run(config(measured_dir, tmp_path / "true", recipe=recipe, text="knowledge"))
        exchange()
        manifest = train.run(config(measured_dir, tmp_path / "exchanged", recipe=recipe, text="knowledge"))
        assert manifest.text_source == "knowledge"
        assert same(weights(tmp_path / "true"), weights(tmp_path / "exchanged"))
        captions = [(tmp_path / name / "captions.json").read_bytes() for name in ("true", "exchanged")]
        assert captions[0] == captions[1]

    @pytest.mark.parametrize("recipe", ["smile-vlm", "supervised"])
    def test_labels_matter_with_label_text(self, shards_dir, tmp_path, exchange, recipe):
        train.run(config(shards_dir, tmp_path / "true", recipe=recipe))
        exchange()
        train.run(config(shards_dir, tmp_path / "exchanged", recipe=recipe))
        assert not same(weights(tmp_path / "true"), weights(tmp_path / "exchanged"))


def test_save_every_is_not_in_the_fingerprint(shards_dir, tmp_path):
    often, seldom = (config(shards_dir, tmp_path / "run", save_every=n) for n in (1, 0))
    assert often.for_fingerprint() == seldom.for_fingerprint()


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"recipe": "smile-vml"}, "unknown recipe 'smile-vml'; did you mean smile-vlm"),
            ({"drop_loss": ("xx",)}, "smile-vlm has no loss 'xx'"),
            ({"recipe": "barlow", "text": "label"}, "recipe barlow: learns without text; leave `text` out"),
            ({"recipe": "clip", "text": "none"}, "recipe clip: has no loss left without text"),
            ({"drop_loss": ("mv",), "text": "none"}, "has no loss left without text"),
            ({"recipe": "supervised", "text": "pseudo"}, "learns from labels, not from pseudo; leave `text` out"),
            ({"text": "geometry"}, "the shards have prompts from label; use `text=label`, or render them"),
        ],
    )
    def test_conflicting_options_are_refused(self, shards_dir, tmp_path, options, reason):
        with pytest.raises(UsageError, match=reason):
            train.run(config(shards_dir, tmp_path / "run", **options))
        assert not (tmp_path / "run").exists()

    def test_missing_label_text_is_refused(self, measured_dir, tmp_path):
        with pytest.raises(UsageError, match="not from geometry; render the shards with `text=label`"):
            train.run(config(measured_dir, tmp_path / "run", recipe="affect-vlm"))

    def test_classifier_protocol_without_classifier_is_refused(self, shards_dir, tmp_path):
        train.run(config(shards_dir, tmp_path / "run", epochs=1))
        with pytest.raises(UsageError, match="the run has none; train with `recipe=supervised`"):
            evaluate.run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir), protocol="classifier"))


def test_class_prompts_are_needed_where_anchors_are_aligned_with_them(tmp_path):
    shards = small_runs.write_shards(tmp_path)
    prepare(small_runs.config(shards, tmp_path / "run", recipe="mpa-vlm"), in_process=True)
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text())
    name = sorted(manifest["prompts"])[0]
    manifest["prompts"][name] = []
    path.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=f"the shards have none for {name}; choose another recipe"):
        prepare(small_runs.config(shards, tmp_path / "run", recipe="mpa-vlm"), in_process=True)
    prepare(small_runs.config(shards, tmp_path / "run", recipe="supervised"), in_process=True)


@pytest.mark.parametrize("recipe", ["mpa-vlm", "mit"])
def test_recipes_with_anchors_resume_to_the_same_bits(tmp_path, monkeypatch, recipe):
    shards = small_runs.write_shards(tmp_path)
    small_runs.learn(shards, tmp_path / "whole", recipe=recipe)
    small_runs.learn_until(small_runs.NUM_STEPS + 1, monkeypatch, shards, tmp_path / "run", recipe=recipe)
    small_runs.learn(shards, tmp_path / "run", recipe=recipe, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
