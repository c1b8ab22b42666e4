"""Classes that are defined by example faces, without training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from smile_pipe.cli.main import app
from smile_pipe.pipeline.predict.examples import example_classifier
from smile_pipe.pipeline.predict.inputs import find_inputs, find_inputs_by_folder
from smile_pipe.pipeline.predict.predictor import Predictor, predict_input
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.load(run_dir)


@pytest.fixture
def examples(faces_dir: Path, tmp_path: Path) -> Path:
    """Two classes of one and two scans, one of them in a folder of its own."""
    for name, code in (("a big smile", "*HA04*"), ("shock/first", "*SU04*"), ("shock", "*FE04*")):
        (tmp_path / "examples" / name).mkdir(parents=True, exist_ok=True)
        for file in sorted(faces_dir.rglob(code)):
            if file.name.startswith("F0001"):
                shutil.copy(file, tmp_path / "examples" / name / file.name)
    assert sum(len(scans) for scans in find_inputs_by_folder(StoragePath(tmp_path / "examples")).values()) == 3
    return tmp_path / "examples"


def embed(predictor: Predictor, path: Path) -> np.ndarray:
    (scan,) = find_inputs([str(path)])
    vector = predictor.embed(predictor.render(scan)).fused[0].astype(float)
    return vector / np.linalg.norm(vector)


def mesh_in(folder: Path) -> Path:
    (path,) = (path for path in folder.iterdir() if path.suffix in (".wrl", ".obj", ".ply"))
    return path


def test_probabilities_are_those_of_a_plain_loop(predictor, examples):
    classifier = example_classifier(predictor, StoragePath(examples))
    assert classifier.classes == ("a big smile", "shock") and classifier.name == "examples"
    smile = embed(predictor, mesh_in(examples / "a big smile"))
    first, second = (
        embed(predictor, mesh_in(examples / "shock" / "first")),
        embed(predictor, mesh_in(examples / "shock")),
    )
    shock = (first + second) / np.linalg.norm(first + second)
    powers = [np.exp(predictor.model.scale * (anchor @ second)) for anchor in (smile, shock)]
    (probabilities,) = classifier.probabilities(second[None])
    assert probabilities == pytest.approx(np.array(powers) / sum(powers), rel=1e-4)
    assert probabilities.argmax() == 1


def test_words_and_examples_of_one_name_are_one_class(predictor, examples):
    classifier = example_classifier(predictor, StoragePath(examples), ["shock", "a bored face"])
    assert classifier.classes == ("a big smile", "shock", "a bored face")
    alone = example_classifier(predictor, StoragePath(examples))
    x = embed(predictor, mesh_in(examples / "shock"))[None]
    with_word, without = (np.log(each.probabilities(x)[0][:2]) for each in (classifier, alone))
    assert (with_word[1] - with_word[0]) != pytest.approx(without[1] - without[0], abs=1e-3)


def test_command_names_faces_by_examples(run_dir, examples):
    face = mesh_in(examples / "a big smile")
    arguments = ["predict", str(run_dir), str(face), "--examples", str(examples), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["head"] == "examples" and answer["classes"] == ["a big smile", "shock"]
    # The face is one of the examples.
    assert answer["predictions"][0]["expression"] == "a big smile"


@pytest.fixture
def people(faces_dir: Path, tmp_path: Path) -> Path:
    """Two classes of two scans, in a folder for each person with the neutral scan."""
    subjects = sorted({mesh.name[:5] for mesh in faces_dir.rglob("*_NE*.wrl")})[:2]
    for name, code in (("a big smile", "HA04"), ("shock", "SU04")):
        for person, subject in zip(("one", "two"), subjects, strict=True):
            folder = tmp_path / "people" / name / person
            folder.mkdir(parents=True)
            for mesh in faces_dir.rglob(f"{subject}_*"):
                if mesh.suffix == ".wrl" and f"_{code}" in mesh.name:
                    shutil.copy(mesh, folder / f"face04{mesh.suffix}")
                elif mesh.suffix == ".wrl" and "_NE" in mesh.name:
                    shutil.copy(mesh, folder / f"Neutral{mesh.suffix}")
    return tmp_path / "people"


def test_scan_named_neutral_is_of_the_subject_of_its_neighbours(people):
    found = find_inputs_by_folder(StoragePath(people))
    for name, scans in found.items():
        assert len(scans) == 2
        for scan in scans:
            folder = Path(scan.source.frames[0].mesh).parent
            assert folder.parts[0] == name and scan.source.neutral.mesh == str(folder / "Neutral.wrl")
    smile = next((people / "a big smile" / "one").glob("*04*"))
    for path in (smile, smile.parent):
        by_name = {Path(scan.name).name: scan.source.neutral for scan in find_inputs([str(path)])}
        assert by_name[smile.name].mesh == "Neutral.wrl" and by_name.get("Neutral.wrl") is None
    # Alone, it is a scan like others.
    smile.unlink()
    (alone,) = [scan for scan in find_inputs_by_folder(StoragePath(people))["a big smile"] if "/one/" in scan.name]
    assert alone.source.frames[0].mesh.endswith("Neutral.wrl") and alone.source.neutral is None


def test_neutral_is_subtracted_where_it_is_given(predictor, people):
    classifier = example_classifier(predictor, StoragePath(people), ["shock", "a bored face"])
    assert classifier.of_directions is not None and classifier.of_directions.classes == classifier.classes

    def direction(folder: Path) -> np.ndarray:
        moved = embed(predictor, next(folder.glob("*04*"))) - embed(predictor, folder / "Neutral.wrl")
        return moved / np.linalg.norm(moved)

    def unit_mean(rows) -> np.ndarray:
        mean = np.mean([row / np.linalg.norm(row) for row in rows], axis=0)
        return mean / np.linalg.norm(mean)

    neutral = unit_mean(predictor.model.embed_prompts(list(predictor.run.prompts["NE"])).astype(float))

    def word(text: str) -> np.ndarray:
        return unit_mean([unit_mean(predictor.model.embed_prompts([text]).astype(float)) - neutral])

    smile, shock = (
        unit_mean([direction(people / name / subject) for subject in ("one", "two")])
        for name in ("a big smile", "shock")
    )
    anchors = [smile, unit_mean([(word("shock") + shock) / 2]), word("a bored face")]
    face = people / "shock" / "two"
    powers = [np.exp(predictor.model.scale * (anchor @ direction(face))) for anchor in anchors]
    (scan,) = find_inputs([str(next(face.glob("*04*")))])
    prediction = predict_input(predictor, scan, classifier)
    assert [*prediction.probabilities.values()] == pytest.approx(np.array(powers) / sum(powers), rel=1e-3)
    assert prediction.is_relative
    # A face without a neutral scan is compared as it is.
    (neutral_scan,) = find_inputs([str(face / "Neutral.wrl")])
    plain = predict_input(predictor, neutral_scan, classifier)
    x = embed(predictor, face / "Neutral.wrl")[None]
    assert not plain.is_relative
    assert [*plain.probabilities.values()] == pytest.approx(classifier.probabilities(x)[0], rel=1e-3)


def test_neutral_is_not_subtracted_where_a_class_has_none(predictor, people):
    assert example_classifier(predictor, StoragePath(people), ["neutral"]).of_directions is None
    shutil.copytree(people, people.parent / "some")
    (people.parent / "some" / "shock" / "one" / "Neutral.wrl").unlink()
    # One example with a neutral scan is enough.
    assert example_classifier(predictor, StoragePath(people.parent / "some")).of_directions is not None
    (people.parent / "some" / "shock" / "two" / "Neutral.wrl").unlink()
    assert example_classifier(predictor, StoragePath(people.parent / "some")).of_directions is None
    prompts = {name: texts for name, texts in predictor.run.prompts.items() if name != "NE"}
    silent = replace(predictor, run=predictor.run.model_copy(update={"prompts": prompts}))
    assert example_classifier(silent, StoragePath(people), ["a bored face"]).of_directions is None
    assert example_classifier(silent, StoragePath(people)).of_directions is not None
    flow = replace(predictor, run=predictor.run.model_copy(update={"channel": "flow"}))
    assert flow.embed_neutral(find_inputs([str(next((people / "shock" / "one").glob("*04*")))])[0]) is None


def test_neutral_scan_that_cannot_be_read_is_named(predictor, people):
    classifier = example_classifier(predictor, StoragePath(people))
    folder = people / "shock" / "two"
    (folder / "Neutral.wrl").write_text("#VRML V2.0 utf8\n")
    (scan,) = find_inputs([str(next(folder.glob("*04*")))])
    assert predict_input(predictor, scan, classifier).failure.startswith("the neutral scan of its subject: ")
    # Other classifiers do not read it.
    assert predict_input(predictor, scan, predictor.classifier).failure is None
    with pytest.raises(UsageError, match="neutral scan of its subject"):
        example_classifier(predictor, StoragePath(people))


def test_unusable_examples_raise(predictor, examples, tmp_path):
    with pytest.raises(UsageError, match="one class, a big smile"):
        shutil.copytree(examples / "a big smile", tmp_path / "one" / "a big smile")
        example_classifier(predictor, StoragePath(tmp_path / "one"))
    with pytest.raises(UsageError, match="no folder with meshes"):
        example_classifier(predictor, StoragePath(examples / "a big smile"))
    (examples / "shock" / "bad.obj").write_text("v 0 0\n")
    with pytest.raises(UsageError, match=r"bad\.obj"):
        example_classifier(predictor, StoragePath(examples))


def test_links_out_of_the_folder_and_hidden_files_are_not_read(examples, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(mesh_in(examples / "a big smile"), tmp_path / "other" / "linked.wrl")
    (examples / "outside").symlink_to(tmp_path / "other")
    shutil.copytree(examples / "a big smile", examples / ".cache")
    assert set(find_inputs_by_folder(StoragePath(examples))) == {"a big smile", "shock"}


@pytest.mark.parametrize(
    "options", [["--examples", "FOLDER", "--head", "probe"], ["--prompts", "a", "--head", "captions"]]
)
def test_a_head_without_effect_is_refused(run_dir, examples, options):
    arguments = [str(examples) if option == "FOLDER" else option for option in options]
    face = mesh_in(examples / "a big smile")
    result = CliRunner().invoke(app, ["predict", str(run_dir), str(face), *arguments])
    assert result.exit_code == 2 and "has no effect" in " ".join(result.stderr.split())
