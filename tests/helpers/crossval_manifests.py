"""The manifest of a cross-validation with invented scores."""

from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, CrossvalScore, FoldScore, MeanStd, PooledScore
from smile_pipe.pipeline.runs.evaluation_manifest import LabelScore

ACCURACIES = {"zero-shot": [0.911, 0.873], "probe": [0.512, 0.555]}


def crossval_manifest(accuracies=ACCURACIES, num_samples=8, protocol="kfold:2", **changes) -> CrossvalManifest:
    """The manifest of two folds with these accuracies by evaluation protocol."""
    scores = {
        name: CrossvalScore(
            accuracy=MeanStd.of(values),
            pooled=PooledScore(accuracy=0.888, macro_f1=0.321, macro_f1_interval=(0.301, 0.341)),
            per_class={"HA": 0.777, "SA": 0.666},
            per_level={"4": MeanStd(mean=0.444, deviation=0.0456)},
            confusion=((7, 2), (1, 6)),
            labels=LabelScore(macro_uf1=0.234, uar=0.345, f1={"HA": 0.3, "SA": 0.2}, recall={"HA": 0.4, "SA": 0.3}),
        )
        for name, values in accuracies.items()
    }
    folds = tuple(
        FoldScore(
            folder=f"folds/0{n}",
            split=f"{protocol}:{n}",
            subjects=(f"F{n}", f"M{n}"),
            num_samples=num_samples,
            run_fingerprint="a" * 32,
            accuracy={name: values[n] for name, values in accuracies.items()},
            macro_f1=dict.fromkeys(accuracies, 0.5),
        )
        for n in range(2)
    )
    fields = {
        "fingerprint": "f" * 32,
        "shards_fingerprint": "b" * 32,
        "scored_on": "b" * 32,
        "protocol": protocol,
        "subset": None,
        "where": None,
        "config": {"arch": "smile-tiny", "epochs": 3, "seed": 0},
        "recipe": "smile-vlm",
        "without": (),
        "channel": "normal",
        "text_source": "label",
        "precision": "float32",
        "classes": ("HA", "SA"),
        "folds": folds,
        "scores": scores,
    }
    return CrossvalManifest(**fields | changes)
