"""Classes that are defined by example faces, without training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from smile_pipe.cli.main import app
from smile_pipe.pipeline.predict.examples import example_classifier
from smile_pipe.pipeline.predict.inputs import find_inputs, find_inputs_by_folder
from smile_pipe.pipeline.predict.predictor import Predictor
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
