"""Classify fused embeddings by text prompts, by the linear probe of an evaluation, or by a run's own classifier."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smile_pipe.model.config import has_classifier
from smile_pipe.pipeline.captions.equal_tokens import warn_on_equal_tokens
from smile_pipe.pipeline.captions.knowledge import load_knowledge, read_knowledge
from smile_pipe.pipeline.classifiers.caption_vote import caption_vote
from smile_pipe.pipeline.classifiers.examples import subtract_neutral
from smile_pipe.pipeline.classifiers.knn import Features, Probabilities
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax, zero_shot
from smile_pipe.pipeline.common.expressions import order_expressions
from smile_pipe.pipeline.common.option_types import ClassifierKind, ClassifierName
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.training_captions import TrainingCaptions, embed_captions
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """Gives probabilities of classes for embeddings.

    Attributes:
        name: the kind of classifier.
        classes: expressions or texts, in the order of the columns.
        probabilities: maps fused embeddings float32 [N, D] to probabilities float64 [N, K].
        of_directions: classifier of faces whose neutral scan is given, for their `subtract_neutral`; None if there is
            none.
    """

    name: ClassifierKind
    classes: tuple[str, ...]
    probabilities: Callable[[Features], Probabilities]
    of_directions: "Classifier | None" = None

    def relative_to(self, x: Features, neutral: Features | None) -> Probabilities:
        """Return probabilities [N, K] of faces of one subject.

        Args:
            x: fused embeddings, [N, D].
            neutral: embedding of the subject's neutral face [1, D], which is used if there is `of_directions`.
        """
        if neutral is None or self.of_directions is None:
            return self.probabilities(x)
        return self.of_directions.probabilities(subtract_neutral(x, neutral))


def choose_classifier(
    name: Literal["auto", ClassifierName],
    root: StoragePath,
    run: RunManifest,
    model: TrainedModel,
    knowledge: Path | None = None,
) -> Classifier:
    """Return a classifier of a run by name; `auto` takes its classifier, else its prompts, else its probe.

    Args:
        name: the kind of classifier, or `auto`.
        root: the run's directory.
        run: the run's manifest.
        model: the run's model.
        knowledge: file of expression knowledge for `captions`; None for that of the training. The expressions of the
            file are classes as well.

    Raises:
        UsageError: the run has no such classifier, or none at all, or it does not use the knowledge.
    """
    if knowledge and name != "captions":
        raise UsageError("needs `head=captions`", field="knowledge", value=knowledge)
    if name == "captions":
        return _caption_classifier(root, run, model, knowledge)
    is_classifier = has_classifier(run.recipe["name"])
    if name == "auto":
        name = "classifier" if is_classifier else "zero-shot" if run.text_source != "none" else "probe"
    if name == "classifier":
        if not is_classifier:
            raise UsageError(
                "the run has none; train with `recipe=supervised` for one", field="head", value="classifier"
            )
        return Classifier(name, run.classes, lambda x: cosine_softmax(model.classify(x), model.scale))
    if name == "probe":
        return _probe_classifier(root, run)
    missing = [expression for expression in run.classes if not run.prompts.get(expression)]
    if missing:
        raise UsageError(f"{root}: has no prompts for {', '.join(missing[:5])}; give texts with `prompts`")
    return prompt_classifier({expression: run.prompts[expression] for expression in run.classes}, root, run, model)


def prompt_classifier(
    prompts: Mapping[str, Sequence[str]], root: StoragePath, run: RunManifest, model: TrainedModel
) -> Classifier:
    """Return a zero-shot classifier.

    Args:
        prompts: the prompts of each class.
        root: the run's directory.
        run: the run's manifest.
        model: the run's model.

    Raises:
        UsageError: the run was trained without text.
    """
    if has_classifier(run.recipe["name"]) or run.text_source == "none":
        raise UsageError(f"{root}: was trained without text, so it cannot compare faces with text; use `head=auto`")
    warn_on_equal_tokens(model.tokenizer, prompts)
    anchors = {name: model.embed_prompts(list(texts)) for name, texts in prompts.items()}
    return Classifier("zero-shot", tuple(prompts), lambda x: zero_shot(x, anchors, model.scale))


def _caption_classifier(root: StoragePath, run: RunManifest, model: TrainedModel, path: Path | None) -> Classifier:
    captions = TrainingCaptions.read(root)
    knowledge = load_knowledge(path) if path else None
    added = read_knowledge(path).prototypes if path else ()
    classes = order_expressions((*run.classes, *added))
    anchors, votes = embed_captions(model, captions), captions.votes(classes, knowledge)
    return Classifier("captions", classes, lambda x: caption_vote(x, anchors, votes, model.scale))


def _warn_on_other_rig(root: StoragePath) -> None:
    """Log a warning if the probe was fitted on shards of another rig than the run's, with which scans are rendered."""
    # An evaluation of an older release does not record it.
    with suppress(UsageError, OSError):
        evaluation = EvaluationManifest.read(RunDirectory(root).evaluation_manifest_path)
        if evaluation.rig_differences:
            _log.warning(
                "the probe was fitted on another rig than that of the run, which renders the scans: %s",
                "; ".join(evaluation.rig_differences),
            )


def _probe_classifier(root: StoragePath, run: RunManifest) -> Classifier:
    # Imported here because scikit-learn takes a second to import, which other classifiers do not need.
    from smile_pipe.pipeline.classifiers.probe import read_probe

    path = RunDirectory(root).probe_path
    if not path.exists():
        raise UsageError(f"{root}: has no linear probe; run `smile-pipe evaluate` for it first")
    try:
        probe, names, run_fingerprint = read_probe(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path}: {error}; evaluate again") from None
    if run_fingerprint != run.fingerprint:
        raise UsageError(f"{path}: belongs to an earlier training; evaluate again")
    _warn_on_other_rig(root)
    return Classifier("probe", names, lambda x: probe.probabilities(x, len(names)))
