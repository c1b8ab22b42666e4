"""Classes that are defined by example faces: a folder of folders, each with some scans and the name of its class.

Where the neutral scans of the examples' subjects are given, there is a second classifier for faces whose own neutral
scan is given: neutral is subtracted from both, as in the protocol `fewshot` of an evaluation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from smile_pipe.pipeline.classifiers.examples import example_anchors, subtract_neutral
from smile_pipe.pipeline.classifiers.knn import Features, unit_vectors
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax
from smile_pipe.pipeline.common.expressions import NEUTRAL, expression_code
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.classifier import Classifier
from smile_pipe.pipeline.predict.inputs import ScanInput, find_inputs_by_folder
from smile_pipe.pipeline.predict.predictor import Predictor
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


@dataclass(frozen=True)
class ExampleFace:
    """An example of a class.

    Attributes:
        fused: its embedding, [1, D].
        neutral: embedding of its subject's neutral scan, [1, D]; None if that is not given.
    """

    fused: Features
    neutral: Features | None = None


def example_classifier(predictor: Predictor, folder: StoragePath, texts: Sequence[str] = ()) -> Classifier:
    """Return a classifier whose classes are example faces, texts, or both; nothing is trained.

    Args:
        predictor: the model.
        folder: has a folder of scans for each class, `FOLDER/CLASS/*`; see `find_inputs_by_folder` for neutral scans.
        texts: each is a class, and its own prompt. A text that is the name of a folder is one class with it.

    Raises:
        UsageError: there is no class folder, only one class, an example cannot be read, or there are texts, and the run
            was trained without text.
    """
    scans = find_inputs_by_folder(folder)
    prompts = {text: predictor.model.embed_prompts([text]) for text in _check_texts(predictor, texts)}
    if len(only := {*scans, *prompts}) < 2:
        raise UsageError(f"has one class, {only.pop()}; give a folder for each class", field="examples", value=folder)
    faces = {name: [_embed(predictor, scan) for scan in of_class] for name, of_class in scans.items()}
    return anchor_classifier(predictor, (*faces, *prompts), prompts, faces)


def anchor_classifier(
    predictor: Predictor,
    classes: Iterable[str],
    prompts: Mapping[str, Features],
    faces: Mapping[str, Sequence[ExampleFace]],
) -> Classifier:
    """Return a classifier of classes that have prompts, example faces, or both.

    Args:
        predictor: the model.
        classes: names of the classes, in order; of equal ones, the first is used.
        prompts: embeddings [P, D] of the prompts of classes that have some.
        faces: examples of classes that have some.
    """
    names = tuple(dict.fromkeys(classes))
    examples = {name: np.concatenate([face.fused for face in of_class]) for name, of_class in faces.items()}
    plain = _classifier(predictor, names, prompts, examples)
    return replace(plain, of_directions=_direction_classifier(predictor, names, prompts, faces))


def _direction_classifier(
    predictor: Predictor,
    classes: tuple[str, ...],
    prompts: Mapping[str, Features],
    faces: Mapping[str, Sequence[ExampleFace]],
) -> Classifier | None:
    """Return the classifier of directions from neutral; None if the neutral face or its prompts are not known.

    Examples without a neutral scan are left out. Neutral itself has no direction, so it can be no class. Flow is
    relative to the neutral scan already.
    """
    if predictor.run.channel == "flow" or any(expression_code(name) == NEUTRAL for name in classes):
        return None
    directions = {
        name: [subtract_neutral(face.fused, face.neutral) for face in of_class if face.neutral is not None]
        for name, of_class in faces.items()
    }
    examples = {name: np.concatenate(found) for name, found in directions.items() if found}
    if not examples.keys() >= faces.keys():
        return None
    neutral = predictor.known_prompts.get(NEUTRAL)
    if prompts and not neutral:
        return None
    words = predictor.model.embed_prompts(list(neutral)) if prompts and neutral else np.empty(0)
    subtracted = {name: subtract_neutral(vectors, words) for name, vectors in prompts.items()}
    return _classifier(predictor, classes, subtracted, examples)


def _classifier(
    predictor: Predictor, classes: tuple[str, ...], prompts: Mapping[str, Features], examples: Mapping[str, Features]
) -> Classifier:
    anchors = example_anchors([prompts.get(name) for name in classes], [examples.get(name) for name in classes])
    scale = predictor.model.scale
    return Classifier("examples", classes, lambda x: cosine_softmax(unit_vectors(x) @ anchors.T, scale))


def _check_texts(predictor: Predictor, texts: Sequence[str]) -> Sequence[str]:
    """Let the zero-shot classifier of the same texts check them."""
    return predictor.prompt_classifier(texts).classes if texts else ()


def _embed(predictor: Predictor, scan: ScanInput) -> ExampleFace:
    try:
        neutral = predictor.embed_neutral(scan)
        return ExampleFace(predictor.embed(predictor.render(scan)).fused, neutral.fused if neutral else None)
    except MeshError as error:
        raise UsageError(f"{scan.name}: {error}", field="examples") from None
