"""Which head names a face: words, the linear probe of an evaluation, or a run's own classifier.

Goes in: a run and its model. Comes out: a `Head`: fused embeddings float32 [N, D] -> probabilities float64 [N, K].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from smile_pipe.pipeline.classifiers.knn import Features, Probabilities
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax, zero_shot
from smile_pipe.pipeline.predict.config import HeadName
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


@dataclass(frozen=True)
class Head:
    """What names embeddings, and the classes, or words, that it chooses among, in the order of its columns."""

    name: HeadName
    classes: tuple[str, ...]
    probabilities: Callable[[Features], Probabilities]


def choose_head(name: Literal["auto", HeadName], root: StoragePath, run: RunManifest, model: TrainedModel) -> Head:
    """The head of that name, or by `auto` the first that the run has: its classifier, its words, its probe.

    Raises:
        UsageError: the run has not what was asked for, or nothing.
    """
    has_classifier = run.recipe["name"] == "supervised"
    if name == "auto":
        name = "classifier" if has_classifier else "zero-shot" if run.text_source != "none" else "probe"
    if name == "classifier":
        if not has_classifier:
            raise UsageError(
                "the run has none; train with `recipe=supervised` for one", field="head", value="classifier"
            )
        return Head(name, run.classes, lambda x: cosine_softmax(model.classify(x), model.scale))
    if name == "probe":
        return _probe(root, run)
    missing = [expression for expression in run.classes if not run.prompts.get(expression)]
    if missing:
        raise UsageError(f"{root}: has no prompts for {', '.join(missing[:5])}; give words with `prompts`")
    return words_head({expression: run.prompts[expression] for expression in run.classes}, root, run, model)


def words_head(words: Mapping[str, Sequence[str]], root: StoragePath, run: RunManifest, model: TrainedModel) -> Head:
    """A head that chooses among words, each with the prompts that stand for it.

    Raises:
        UsageError: the run has learned no words.
    """
    if run.recipe["name"] == "supervised" or run.text_source == "none":
        raise UsageError(f"{root}: was trained without text, so words mean nothing to it; use `head=auto`")
    anchors = {name: model.embed_prompts(list(prompts)) for name, prompts in words.items()}
    return Head("zero-shot", tuple(words), lambda x: zero_shot(x, anchors, model.scale))


def _probe(root: StoragePath, run: RunManifest) -> Head:
    # Imported here because scikit-learn takes a second, which words need not wait for.
    from smile_pipe.pipeline.classifiers.probe import read_probe

    path = RunDirectory(root).probe_path
    if not path.exists():
        raise UsageError(f"{root}: has no linear probe; `smile-pipe evaluate {root} `shards=SHARDS`` fits one")
    try:
        probe, names, of_run = read_probe(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path}: {error}; evaluate again") from None
    if of_run != run.fingerprint:
        raise UsageError(f"{path}: is of a training before this one; evaluate again")
    return Head("probe", names, lambda x: probe.probabilities(x, len(names)))
