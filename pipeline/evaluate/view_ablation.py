"""Scores on parts of the rig: what each view tells alone, and what is lost without it."""

from collections.abc import Iterable, Sequence
from itertools import combinations

from smile_pipe.pipeline.classifiers.metrics import score
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol, ViewScore

# Of the protocols that are asked for, the first of these is scored on parts of the rig: the quickest come first, and
# what needs nothing fitted anew. Fine-tuning would have to be done again for each.
_PREFERRED: tuple[Protocol, ...] = ("zero-shot", "classifier", "knn", "probe")
# Of a rig of so many views or fewer, all subsets are scored: 2^V - 1.
_MAX_ALL_SUBSETS = 3


def view_protocol(asked: Iterable[str]) -> Protocol | None:
    """What is scored on parts of the rig: of the protocols asked for the first of zero-shot, classifier, knn, probe.

    One is enough to compare views, and keeps an evaluation quick. None with fine-tuning alone.
    """
    names = set(asked)
    return next((name for name in _PREFERRED if name in names), None)


def view_subsets(num_views: int) -> list[tuple[int, ...]]:
    """The parts of a rig that are scored, as indices of views: small ones first, the whole rig last.

    Up to three views, all subsets; of more, each view alone, all but each, and all.
    """
    sizes = range(1, num_views + 1) if num_views <= _MAX_ALL_SUBSETS else (1, num_views - 1, num_views)
    return [subset for size in sizes for subset in combinations(range(num_views), size)]


def view_scores(
    predictor: ProtocolPredictor, protocol: Protocol, views: Sequence[str], seed: int
) -> tuple[ViewScore, ...]:
    """Score `protocol` on parts of the rig whose views are `views` [V].

    The views of a part are fused, on either side, as if there were no others; what is fitted is fitted anew.
    """
    data, scores = predictor.data, []
    for subset in view_subsets(len(views)):
        part = list(subset)
        # All of them are fused already; once more, in batches of another size, they could differ in the last bit.
        is_whole = len(part) == len(views)
        x = data.x if is_whole else predictor.model.fuse(data.views[:, part], data.directions[part])
        found = score(data.truth, predictor.probabilities(protocol, x), seed)
        scores.append(
            ViewScore(
                views=tuple(views[v] for v in subset),
                accuracy=found.accuracy,
                macro_f1=found.macro_f1,
                accuracy_interval=found.accuracy_interval,
                macro_f1_interval=found.macro_f1_interval,
            )
        )
    return tuple(scores)
