"""Faces to try the page with: made here, so that they need no download and show nobody."""

import tempfile
from pathlib import Path

from pipeline.app.seen import Seen, see
from pipeline.predict import Predictor
from pipeline.prediction.inputs import find_inputs
from pipeline.synth import SynthConfig, run

# Of a subject that no demo has: those count from seed 0.
_SEED = 2506
EXAMPLES = {
    "a smile": ("scans", "HA04"),
    "a surprise": ("scans", "SU04"),
    "a sad face": ("scans", "SA04"),
    "a smile over time": ("sequences", "HA"),
}
"""What there is, of which kind it is, and what its key has in it."""


def example(predictor: Predictor, name: str) -> Seen:
    """One of `EXAMPLES`.

    Raises:
        MeshError: it cannot be read, as the run needs a neutral scan of the subject (channel flow).
    """
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
        kind, sign = EXAMPLES[name]
        options = {"kind": "sequences", "frames": 16} if kind == "sequences" else {"levels": (4,)}
        run(SynthConfig.model_validate({"out": Path(folder) / "faces", "subjects": 1, "seed": _SEED, **options}))
        found = find_inputs([str(Path(folder) / "faces")])
        return see(predictor, next(given for given in found if sign in given.source.key), name)
