"""Classes of the page that are defined by example scans."""

import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.app.examples import UploadedExample, embed_example, example_candidates
from smile_pipe.pipeline.app.stage import PAGE
from smile_pipe.pipeline.app.uploads import UploadError
from smile_pipe.pipeline.predict.examples import ExampleFace, anchor_classifier
from smile_pipe.pipeline.predict.predictor import Predictor
from smile_pipe.shards.errors import UsageError


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.load(run_dir)


def mesh_of(faces_dir: Path, code: str, subject: str = "F0001") -> Path:
    suffixes = (".wrl", ".obj", ".ply")
    return next(path for path in sorted(faces_dir.rglob(f"{subject}_{code}*")) if path.suffix in suffixes)


def upload_of(faces_dir: Path, code: str, *, neutral: bool = False) -> tuple[str, bytes]:
    """Name and content of an uploaded scan, in a zip if the neutral scan of its subject is with it."""
    mesh = mesh_of(faces_dir, code)
    if not neutral:
        return mesh.name, mesh.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(mesh, mesh.name)
        archive.write(mesh_of(faces_dir, "NE"), f"Neutral{mesh.suffix}")
    return "face.zip", buffer.getvalue()


@pytest.fixture(scope="module")
def smile(predictor, faces_dir) -> UploadedExample:
    return embed_example(predictor, *upload_of(faces_dir, "HA04"))


@pytest.fixture(scope="module")
def smile_and_neutral(predictor, faces_dir) -> UploadedExample:
    return embed_example(predictor, *upload_of(faces_dir, "HA04", neutral=True))


def test_class_joins_the_expressions_and_descriptions(predictor, smile):
    views = [0, 2]
    classifier = example_candidates(predictor, ["a bored face"], {"Pain": [smile]}, views, has_neutral=False)
    known = tuple(predictor.known_prompts)
    assert classifier.classes == (*known, "a bored face", "Pain")
    prompts = {name: predictor.model.embed_prompts(list(texts)) for name, texts in predictor.known_prompts.items()}
    prompts["a bored face"] = predictor.model.embed_prompts(["a bored face"])
    fused = predictor.fuse(smile.embeddings, views)
    expected = anchor_classifier(predictor, classifier.classes, prompts, {"Pain": [ExampleFace(fused)]})
    assert classifier.probabilities(fused) == pytest.approx(expected.probabilities(fused))
    assert classifier.classes[classifier.probabilities(fused).argmax()] == "Pain"


@pytest.mark.parametrize(("name", "known"), [("Anger", "AN"), ("an", "AN"), ("A BORED FACE", "a bored face")])
def test_class_with_a_known_name_has_words_and_examples(predictor, smile, name, known):
    with_examples = example_candidates(predictor, ["a bored face"], {name: [smile]}, [0, 1, 2], has_neutral=False)
    assert with_examples.classes == (*predictor.known_prompts, "a bored face")
    without = predictor.prompt_classifier(["a bored face"], with_expressions=True)
    x, column = smile.embeddings.fused, with_examples.classes.index(known)
    assert with_examples.probabilities(x)[0, column] > without.probabilities(x)[0, column] + 1e-6


def test_neutral_scan_is_subtracted_where_it_is_given(predictor, smile, smile_and_neutral):
    assert smile.neutral is None and smile_and_neutral.neutral is not None
    assert np.array_equal(smile_and_neutral.embeddings.fused, smile.embeddings.fused)
    views = [0, 1, 2]
    both = example_candidates(predictor, [], {"pain": [smile, smile_and_neutral]}, views, has_neutral=True)
    assert both.of_directions is not None
    assert both.classes == (*[name for name in predictor.known_prompts if name != "NE"], "pain")
    for examples, has_neutral in (({"pain": [smile_and_neutral]}, False), ({"pain": [smile]}, True)):
        plain = example_candidates(predictor, [], examples, views, has_neutral)
        assert plain.of_directions is None and "NE" in plain.classes
    # A class of neutral faces can be asked about, so nothing is subtracted.
    plain = example_candidates(predictor, [], {"neutral": [smile_and_neutral]}, views, has_neutral=True)
    assert plain.of_directions is None and "NE" in plain.classes


def test_run_without_text_needs_two_classes(predictor, smile):
    run = predictor.run.model_copy(update={"text_source": "none"})
    silent = replace(predictor, run=run)
    with pytest.raises(UsageError, match="second class"):
        example_candidates(silent, [], {"pain": [smile]}, [0], has_neutral=False)
    two = example_candidates(silent, [], {"pain": [smile], "joy": [smile]}, [0], has_neutral=False)
    assert two.classes == ("pain", "joy")
    with pytest.raises(UsageError, match="without text"):
        example_candidates(silent, ["a bored face"], {"pain": [smile]}, [0], has_neutral=False)


def test_example_that_cannot_be_read_is_an_error_for_the_visitor(predictor):
    with pytest.raises(UploadError, match="cannot be read"):
        embed_example(predictor, "face.txt", b"")


def test_page_adds_and_removes_a_class(run_dir, faces_dir, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["page.py", AppConfig(run=run_dir).model_dump_json()])
    # Streamlit puts the script here; processes that later tests spawn would run it as theirs.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    click(page, "a smile")
    assert page.text_input[0].label == "Name of the class"
    click(page, "Add the class")
    assert [error.value for error in page.error] == ["Give the name of a class and at least one scan."]
    page.text_input[0].set_value("pain")
    good = (*upload_of(faces_dir, "HA04"), "model/obj")
    uploader_of(page).set_value([good, ("bad.obj", b"f 1 2 3\n", "model/obj")])
    click(page, "Add the class")
    assert page.error[0].value.startswith("bad.obj: ") and not page.session_state["examples"]
    page.text_input[0].set_value(" pain ")
    uploader_of(page).set_value([good])
    click(page, "Add the class")
    assert not page.exception and not page.error
    assert [*page.session_state["examples"]] == ["pain"] and len(page.session_state["examples"]["pain"]) == 1
    click(page, "Remove pain (1 example)")
    assert not page.exception and not page.session_state["examples"]
    assert all("Remove" not in button.label for button in page.button)


def uploader_of(page: AppTest):
    (found,) = [uploader for uploader in page.file_uploader if uploader.label.startswith("Example scans")]
    return found


def click(page: AppTest, label: str) -> None:
    next(button for button in page.button if button.label == label).click().run()
