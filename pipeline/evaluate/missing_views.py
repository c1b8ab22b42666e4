"""Missing views: accuracy of classifiers of all views on faces that are seen from some of the views only.

The view ablation (`view_ablation.py`) fits a classifier for each subset of the views. Here a classifier is fitted once,
on faces with all views, as in use, where a camera may fail.
"""

from functools import partial
from itertools import combinations, groupby

import numpy as np

from smile_pipe.model.objectives import Supervised
from smile_pipe.pipeline.classifiers.knn import ClassIndices, Features, Probabilities
from smile_pipe.pipeline.classifiers.probe import fit_probe
from smile_pipe.pipeline.evaluate.answers import Answers, score_part
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor, out_of_fold_predict
from smile_pipe.pipeline.evaluate.view_ablation import view_subsets
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.runs.question_scores import QuestionPart, QuestionScore
from smile_pipe.shards.errors import UsageError

# Of up to so many views, all subsets are scored.
MAX_VIEWS = 6


def missing_views(predictor: ProtocolPredictor, views: tuple[str, ...], seed: int) -> Answers:
    """Score the probe, and the classifier or zero-shot where the run has it, on each subset of the views.

    Args:
        predictor: the predictor of the evaluation.
        views: names of all views, [V].
        seed: random seed of the intervals.

    Raises:
        UsageError: there is one view only.
    """
    if len(views) < 2:
        raise UsageError("needs shards with at least two views", field="protocol", value="missing-views")
    data, num_views = predictor.data, len(views)
    truth, subjects = data.y[data.num_train :], data.subjects[data.num_train :]
    score = partial(score_part, chance=1 / len(data.classes), subjects=subjects, seed=seed)
    fused = {subset: _fuse(predictor, list(subset)) for subset in all_subsets(num_views)}
    parts = list[QuestionPart]()
    for protocol in (*fixed_protocols(predictor), "probe"):
        hits = {s: predict_changed(predictor, protocol, x).argmax(axis=1) == truth for s, x in fused.items()}
        for size, group in groupby(hits, key=len):
            subsets = list(group)
            # All views are one subset, and a point of the plot by themselves.
            position = num_views if size == num_views else None
            parts += [score(protocol, " + ".join(views[v] for v in s), hits[s], position=position) for s in subsets]
            if size < num_views:
                mean_hits = np.mean([hits[s] for s in subsets], axis=0)
                parts.append(score(protocol, f"mean of {size} of {num_views} views", mean_hits, position=size))
    return Answers(QuestionScore(parts=tuple(parts)))


def _fuse(predictor: ProtocolPredictor, views: list[int]) -> Features:
    data = predictor.data
    if len(views) == len(data.directions):
        return data.x
    return predictor.model.fuse(data.views[:, views], data.directions[views])


def all_subsets(num_views: int) -> list[tuple[int, ...]]:
    """Return all subsets of up to `MAX_VIEWS` views, small ones first; of more views, those of the view ablation."""
    if num_views > MAX_VIEWS:
        return view_subsets(num_views)
    return [subset for size in range(1, num_views + 1) for subset in combinations(range(num_views), size)]


def predict_changed(predictor: ProtocolPredictor, protocol: Protocol, x: Features) -> Probabilities:
    """Predict the scored samples from changed images, with the probe that is fitted on unchanged ones.

    Args:
        predictor: the predictor of the evaluation.
        protocol: "zero-shot", "classifier" or "probe".
        x: embeddings of all samples, those to score from some of their views or from other images, [N, D].
    """
    data = predictor.data
    if protocol != "probe":
        return predictor.probabilities(protocol, x)
    if predictor.probe is not None:
        return predictor.probe.probabilities(x[data.num_train :], len(data.classes))

    def fit_predict(fit: ClassIndices, predict: ClassIndices) -> Probabilities:
        probe = fit_probe(data.x[fit], data.y[fit], data.subjects[fit], predictor.seed)
        return probe.probabilities(x[predict], len(data.classes))

    return out_of_fold_predict(fit_predict, data.subjects.tolist())


def fixed_protocols(predictor: ProtocolPredictor) -> list[Protocol]:
    """Return the protocol that the run has without a fit, if it has one."""
    if predictor.prompts:
        return ["zero-shot"]
    return ["classifier"] if isinstance(predictor.model.model, Supervised) else []
