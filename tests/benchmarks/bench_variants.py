"""What single losses and conversions add: accuracy, transfer between views and redundancy, over seeds and folds.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_variants.py SHARDS OUT --seeds 3 --folds 2 --epochs 12
    python tests/benchmarks/bench_variants.py SHARDS OUT --table

Choices are made by these figures, so the shards must not be those of reported results. Each variant is trained once per
seed and fold, without Ray, and its result is stored in OUT; what is there already is not repeated. To compare two sets
of shards of the same samples, give each a `--prefix` and the same OUT. The table pools all
samples of all folds and seeds. Differences are from the first variant given, with 95 % intervals of a paired bootstrap
over subjects. `transfer` is the accuracy of kNN that is fitted on one view and scored on another, the mean over all
pairs; `rank` is the effective rank of the fused embeddings (Roy and Vetterli, EUSIPCO 2007, of the covariance), and
`redundancy` the mean squared correlation of two features.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from smile_pipe.model import losses
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.distributed import Rows
from smile_pipe.pipeline.classifiers.knn import knn
from smile_pipe.pipeline.data import augment, dataset
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.input_images import fit_view
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet, embed
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train import stage as training
from smile_pipe.pipeline.train.config import TrainConfig, TrainOptions
from smile_pipe.shards.images import Pixels
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import SampleRecord

PROTOCOLS = ("zero-shot", "knn", "probe")
NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Variant:
    """What differs from a training with the default options.

    Attributes:
        options: Options of the training.
        recipe: Constants of the recipe.
        is_per_view: Whether the text is contrasted with single views too.
        replaced: Replaces L_mv: `shuffled` compares views of different samples, `cosine` only their direction. Or
            restores what was changed: `unturned` leaves vectors as they are when their image is turned, and `old-depth`
            converts depth as in version 1.
    """

    options: Mapping[str, object]
    recipe: Mapping[str, float]
    is_per_view: bool = True
    replaced: str = ""


def _decorrelation(kappa: float, dim: int = 0) -> dict[str, float]:
    """Constants of L_mv whose lambda is `kappa` / D."""
    return {"off_diagonal_weight": kappa / (dim or 128), "projection_dim": dim}


_TERMS = {
    "0.65": _decorrelation(0.65),
    "6.5": _decorrelation(6.5),
    "42": _decorrelation(42),
    "6.5-wide": _decorrelation(6.5, 512),
    "42-wide": _decorrelation(42, 512),
}
VARIANTS: dict[str, Variant] = {
    "off": Variant({"drop_loss": ("mv",)}, {}),
    **{name: Variant({}, recipe) for name, recipe in _TERMS.items()},
    "fused-off": Variant({"drop_loss": ("mv",)}, {}, is_per_view=False),
    **{f"fused-{name}": Variant({}, recipe, is_per_view=False) for name, recipe in _TERMS.items()},
    **{f"alone-{name}": Variant({"recipe": "barlow", "text": "none"}, recipe) for name, recipe in _TERMS.items()},
    "shuffled": Variant({}, _TERMS["6.5"], replaced="shuffled"),
    "cosine": Variant({}, {}, replaced="cosine"),
    "fused-shuffled": Variant({}, _TERMS["6.5"], is_per_view=False, replaced="shuffled"),
    "fused-cosine": Variant({}, {}, is_per_view=False, replaced="cosine"),
    "unturned": Variant({}, {}, replaced="unturned"),
    "depth": Variant({"channel": "depth"}, {}),
    "old-depth": Variant({"channel": "depth"}, {}, replaced="old-depth"),
}


@contextmanager
def _changed(variant: Variant) -> Iterator[None]:
    """Apply a variant to all trainings in this process."""
    recipe_config, decorrelation = TrainOptions.recipe_config, losses.multiview_decorrelation

    def changed_recipe(options: TrainOptions, num_classes: int = 0) -> RecipeConfig:
        return recipe_config(options, num_classes).model_copy(update=variant.recipe)

    def fused_only(fused: Rows, views: Rows, text: Rows, concepts: Rows, scale: Tensor) -> Tensor:
        return losses.contrast(fused, text, concepts, scale)

    def shuffled(views: Rows, weight: float) -> Tensor:
        rolled = torch.stack([view.roll(v, dims=0) for v, view in enumerate(views.own.unbind(1))], dim=1)
        return decorrelation(Rows.alone(rolled), weight)

    def cosine(views: Rows, weight: float) -> Tensor:
        pairs = itertools.combinations(F.normalize(views.own, dim=-1).unbind(1), 2)
        return torch.stack([1 - (a * b).sum(dim=-1).mean() for a, b in pairs]).mean()

    def unturned(theta_nv23: Tensor) -> Tensor:
        maps = torch.eye(2).repeat(*theta_nv23.shape[:2], 1, 1)
        maps[..., 0, 0] = torch.linalg.det(theta_nv23[..., :2]).sign()
        return maps

    def old_depth(pixels: Pixels, record: SampleRecord, channel: str, out: NDArray[np.uint8], version: int) -> None:
        fit_view(pixels, record, channel, out, version=1)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(TrainOptions, "recipe_config", changed_recipe))
        if not variant.is_per_view:
            stack.enter_context(mock.patch.object(losses, "vision_language_contrast", fused_only))
        if variant.replaced:
            where, name, replacement = {
                "shuffled": (losses, "multiview_decorrelation", shuffled),
                "cosine": (losses, "multiview_decorrelation", cosine),
                "unturned": (augment, "_vector_maps", unturned),
                "old-depth": (dataset, "fit_view", old_depth),
            }[variant.replaced]
            stack.enter_context(mock.patch.object(where, name, replacement))
        yield


def measure(shards: str, variant: Variant, seed: int, fold: int, folds: int, epochs: int) -> dict[str, NDArray]:
    """Train a variant and score it on the test side of a fold.

    Returns:
        `subjects` of the M scored samples; whether each protocol was right, [M]; and the scalars of the table.
    """
    with tempfile.TemporaryDirectory() as folder, _changed(variant):
        split = f"kfold:{folds}:{fold}"
        options = {"shards": shards, "out": f"{folder}/run", "split": split, "epochs": epochs, "seed": seed}
        config = TrainConfig.model_validate(options | variant.options)
        manifest = training.run(config, in_process=True)
        model = TrainedModel.load(manifest, RunDirectory(config.out).checkpoints()[-1])
        opened = ShardSet.open(shards)
        sides = [opened.of_subjects(subjects) for subjects in (manifest.train_subjects, manifest.test_subjects)]
        reader = FaceDataset(opened, model.decode_spec(manifest, "none"), 0)
        data = embed(model, reader, *sides, 64, lambda done, total: None)
    prompts = {name: model.embed_prompts(opened.manifest.prompts[name]) for name in data.classes}
    predictor = ProtocolPredictor(model, data, prompts, manifest.classes, seed)
    y, found = data.test_labels.y, dict[str, NDArray]()
    for protocol in PROTOCOLS[variant.options.get("text") == "none" :]:
        found[protocol] = predictor.probabilities(protocol, data.x).argmax(axis=1) == y
    fused = data.x[data.num_train :]
    return found | {
        "subjects": data.subjects[data.num_train :],
        "transfer": np.array(_transfer(data)),
        "rank": np.array(_effective_rank(fused)),
        "redundancy": np.array(_redundancy(fused)),
    }


def _transfer(data: EmbeddingSet) -> float:
    y, rates = data.y[: data.num_train], []
    for source, target in itertools.permutations(range(data.views.shape[1]), 2):
        fit, scored = data.views[: data.num_train, source], data.views[data.num_train :, target]
        predicted = knn(fit, y, scored, len(data.classes)).argmax(axis=1)
        rates.append((predicted == data.test_labels.y).mean())
    return float(np.mean(rates))


def _effective_rank(x: NDArray[np.float32]) -> float:
    """Exponential of the entropy of the eigenvalues of the covariance of [N, D], as shares of their sum."""
    shares = np.linalg.eigvalsh(np.cov(x.T.astype(np.float64))).clip(min=1e-12)
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _redundancy(x: NDArray[np.float32]) -> float:
    """Mean squared correlation of two different features of [N, D]."""
    correlation = np.corrcoef(x.T)
    return float((correlation[~np.eye(len(correlation), dtype=bool)] ** 2).mean())


Results = dict[str, dict[str, NDArray]]
"""Results of a variant by seed and fold."""


def table(out: Path, names: list[str]) -> None:
    """Print a row per variant; see the module's documentation."""
    print(f"| variant | runs | {' | '.join(f'{c} | difference' for c in PROTOCOLS)} | transfer | rank | redundancy |")
    print(f"|{'---|' * (2 + 2 * len(PROTOCOLS) + 3)}")
    reference: Results = {}
    for name in names:
        results: Results = {f.name[len(name) :]: dict(np.load(f)) for f in sorted(out.glob(f"{name}.[0-9]*.npz"))}
        reference = reference or results
        row = [name, str(len(results))]
        for column in PROTOCOLS:
            known = [run[column] for run in results.values() if column in run]
            row += [f"{100 * np.concatenate(known).mean():.1f}" if known else "", ""]
            if known and results is not reference:
                row[-1] = _difference(results, reference, column)
        for column, digits in (("transfer", 3), ("rank", 1), ("redundancy", 3)):
            row.append(f"{np.mean([run[column] for run in results.values()]):.{digits}f}" if results else "")
        print(f"| {' | '.join(row)} |")


def _difference(results: Results, reference: Results, column: str) -> str:
    """Difference of accuracies in points, with its interval: subjects are drawn, each with all its samples.

    Only seeds and folds that both have are compared.
    """
    pairs = [(run, reference[name]) for name, run in results.items() if column in reference.get(name, ())]
    if not pairs:
        return ""
    if any((run["subjects"] != other["subjects"]).any() for run, other in pairs):
        raise SystemExit("the variants were scored on different samples")
    gains = np.concatenate([100.0 * run[column] - 100.0 * other[column] for run, other in pairs])
    _, numbers = np.unique(np.concatenate([run["subjects"] for run, _ in pairs]), return_inverse=True)
    sums, counts = np.bincount(numbers, gains), np.bincount(numbers)
    drawn = np.random.default_rng(0).integers(len(sums), size=(NUM_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return f"{gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help="names; `--table` takes prefixes too")
    parser.add_argument("--prefix", default="", help="of the names of results, to distinguish sets of shards")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    runs = itertools.product(range(given.seeds), range(given.folds), given.variants)
    for seed, fold, name in () if given.table else runs:
        file = given.out / f"{given.prefix}{name}.{seed}.{fold}.npz"
        if not file.exists():
            found = measure(given.shards, VARIANTS[name], seed, fold, given.folds, given.epochs)
            np.savez(file, **found)
            means = {key: round(float(value.mean()), 3) for key, value in found.items() if key != "subjects"}
            print(name, seed, fold, means, flush=True)
    table(given.out, [given.prefix + name for name in given.variants])


if __name__ == "__main__":
    main()
