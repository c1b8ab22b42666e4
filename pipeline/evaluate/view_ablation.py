"""View ablation: scores from subsets of the views, such as each view alone and all views but one."""

from collections.abc import Iterable, Sequence
from itertools import combinations

from smile_pipe.pipeline.classifiers.metrics import score
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol, ViewScore

# The first of these that is requested is scored: the fastest first, without a fit if possible. Fine-tuning would have
# to be repeated for each subset.
_PREFERRED: tuple[Protocol, ...] = ("zero-shot", "classifier", "knn", "probe")
# Up to this number of views, all 2^V - 1 subsets are scored.
_MAX_ALL_SUBSETS = 3


def view_protocol(requested: Iterable[str]) -> Protocol | None:
    """Return the protocol to score: the first of zero-shot, classifier, knn and probe that is requested.

    One protocol is enough to compare views, and keeps an evaluation fast. None if only fine-tuning is requested.
    """
    names = set(requested)
    return next((name for name in _PREFERRED if name in names), None)


def view_subsets(num_views: int) -> list[tuple[int, ...]]:
    """Return the subsets to score, as indices of views: small ones first, all views last.

    Up to three views, all subsets; of more views, each view alone, all but each, and all.
    """
    sizes = range(1, num_views + 1) if num_views <= _MAX_ALL_SUBSETS else (1, num_views - 1, num_views)
    return [subset for size in sizes for subset in combinations(range(num_views), size)]


def view_scores(
    predictor: ProtocolPredictor, protocol: Protocol, views: Sequence[str], seed: int
) -> tuple[ViewScore, ...]:
    """Score a protocol on each subset of the views.

    The model fuses the views of a subset as if no others existed, for the samples to fit on and those to score; what
    the protocol fits is fitted for each subset.

    Args:
        predictor: the predictor of the evaluation.
        protocol: protocol to score, see `view_protocol`.
        views: names of all views, [V].
        seed: random seed of the intervals.
    """
    data, scores = predictor.data, []
    for subset in view_subsets(len(views)):
        indices = list(subset)
        # All views are fused already; another fusion, in batches of another size, may differ in the last bit.
        is_complete = len(indices) == len(views)
        x = data.x if is_complete else predictor.model.fuse(data.views[:, indices], data.directions[indices])
        result = score(data.test_labels, predictor.probabilities(protocol, x), seed)
        scores.append(
            ViewScore(
                views=tuple(views[v] for v in subset),
                accuracy=result.accuracy,
                macro_f1=result.macro_f1,
                accuracy_interval=result.accuracy_interval,
                macro_f1_interval=result.macro_f1_interval,
            )
        )
    return tuple(scores)
