"""Classes that are defined by example faces: a folder of folders, each with some scans and the name of its class."""

from collections.abc import Sequence

import numpy as np

from smile_pipe.pipeline.classifiers.examples import example_anchors
from smile_pipe.pipeline.classifiers.knn import unit_vectors
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.classifier import Classifier
from smile_pipe.pipeline.predict.inputs import ScanInput, find_inputs_by_folder
from smile_pipe.pipeline.predict.predictor import Predictor
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


def example_classifier(predictor: Predictor, folder: StoragePath, texts: Sequence[str] = ()) -> Classifier:
    """Return a classifier whose classes are example faces, texts, or both; nothing is trained.

    Args:
        predictor: the model.
        folder: has a folder of scans for each class, `FOLDER/CLASS/*`.
        texts: each is a class, and its own prompt. A text that is the name of a folder is one class with it.

    Raises:
        UsageError: there is no class folder, only one class, an example cannot be read, or there are texts, and the run
            was trained without text.
    """
    scans = find_inputs_by_folder(folder)
    prompts = {text: predictor.model.embed_prompts([text]) for text in _check_texts(predictor, texts)}
    classes = tuple(dict.fromkeys((*scans, *prompts)))
    if len(classes) < 2:
        raise UsageError(f"has one class, {classes[0]}; give a folder for each class", field="examples", value=folder)
    faces = {name: np.concatenate([_embed(predictor, scan) for scan in of_class]) for name, of_class in scans.items()}
    anchors = example_anchors([prompts.get(name) for name in classes], [faces.get(name) for name in classes])
    scale = predictor.model.scale
    return Classifier("examples", classes, lambda x: cosine_softmax(unit_vectors(x) @ anchors.T, scale))


def _check_texts(predictor: Predictor, texts: Sequence[str]) -> Sequence[str]:
    """Let the zero-shot classifier of the same texts check them."""
    return predictor.prompt_classifier(texts).classes if texts else ()


def _embed(predictor: Predictor, scan: ScanInput) -> np.ndarray:
    try:
        return predictor.embed(predictor.render(scan)).fused
    except MeshError as error:
        raise UsageError(f"{scan.name}: {error}", field="examples") from None
