"""Classes of the page that a visitor defines by example scans, as the folder `examples` does for predict."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smile_pipe.model.config import has_classifier
from smile_pipe.pipeline.app.uploads import unpack
from smile_pipe.pipeline.common.expressions import NEUTRAL, word_for
from smile_pipe.pipeline.predict.examples import ExampleFace, anchor_classifier
from smile_pipe.pipeline.predict.predictor import Classifier, Predictor
from smile_pipe.pipeline.runs.load_model import FaceEmbeddings
from smile_pipe.shards.errors import UsageError

MAX_EXAMPLES = 10
"""Maximum number of scans that are added at a time."""


@dataclass(frozen=True, eq=False)
class UploadedExample:
    """An example scan.

    Attributes:
        embeddings: of its views [1, V, D] and fused [1, D].
        neutral: of the neutral scan of its subject; None if that is not given.
    """

    embeddings: FaceEmbeddings
    neutral: FaceEmbeddings | None

    def seen_from(self, predictor: Predictor, views: Sequence[int]) -> ExampleFace:
        """Return the example as it is seen from some of the views."""
        neutral = None if self.neutral is None else predictor.fuse(self.neutral, views)
        return ExampleFace(predictor.fuse(self.embeddings, views), neutral)


def embed_example(predictor: Predictor, name: str, content: bytes) -> UploadedExample:
    """Embed an uploaded file; its files are deleted afterwards.

    Args:
        predictor: the model.
        name: file name of the upload.
        content: its bytes.

    Raises:
        UploadError, MeshError: the upload cannot be read; the message is a sentence for the visitor.
    """
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
        scan = unpack(name, content, Path(folder))
        return UploadedExample(predictor.embed(predictor.render(scan)), predictor.embed_neutral(scan))


def example_candidates(
    predictor: Predictor,
    descriptions: Sequence[str],
    examples: Mapping[str, Sequence[UploadedExample]],
    views: Sequence[int],
    has_neutral: bool,
) -> Classifier:
    """Return a classifier of the run's expressions, descriptions, and classes with examples.

    An example class whose name is an expression or a description is one class with it. Of a run without text, only
    classes with examples are candidates. Neutral is no candidate where it is subtracted.

    Args:
        predictor: the model.
        descriptions: each is a class, and its own prompt.
        examples: examples by the name of their class.
        views: indices of the views that faces are seen from.
        has_neutral: whether the neutral scan of the face to classify is given.

    Raises:
        UsageError: there is only one candidate, or there are descriptions, and the run was trained without text.
    """
    has_text = not has_classifier(predictor.run.recipe["name"]) and predictor.run.text_source != "none"
    if descriptions:
        predictor.prompt_classifier(descriptions)
    texts = {**(predictor.known_prompts if has_text else {}), **{text: (text,) for text in descriptions}}
    names = {name.casefold(): known for known in texts for name in (known, word_for(known))}
    faces: dict[str, list[ExampleFace]] = {}
    for name, scans in examples.items():
        seen = [scan.seen_from(predictor, views) for scan in scans]
        faces.setdefault(names.get(name.casefold(), name), []).extend(seen)
    is_relative = has_neutral and all(any(face.neutral is not None for face in found) for found in faces.values())
    if is_relative and NEUTRAL not in faces:
        texts = {name: prompts for name, prompts in texts.items() if name != NEUTRAL}
    prompts = {name: predictor.model.embed_prompts(list(found)) for name, found in texts.items()}
    if len({*prompts, *faces}) < 2:
        raise UsageError("Give examples of a second class: this run was trained without text.")
    return anchor_classifier(predictor, (*prompts, *faces), prompts, faces)
