"""Seconds per prediction, after a run is loaded.

    python tests/benchmarks/bench_predict.py RUN SCAN...

Prints, and writes with `--json FILE`: seconds to load the run, of the first scan, which includes loading compiled
kernels, and the median and maximum of all following scans.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from smile_pipe.pipeline.predict.predictor import Predictor


def measure(run: Path, scans: list[Path]) -> dict[str, float]:
    """Seconds of loading, of the first scan, and of the scans after it."""
    began = time.perf_counter()
    predictor = Predictor.load(run)
    loaded = time.perf_counter() - began
    seconds = []
    for scan in scans:
        began = time.perf_counter()
        (found,) = predictor.predict(scan)
        seconds.append(time.perf_counter() - began)
        if found.failure:
            raise SystemExit(found.failure)
    first, *others = seconds
    return {
        "load_s": loaded,
        "first_s": first,
        "median_s": statistics.median(others),
        "largest_s": max(others),
        "num_scans": len(scans),
    }


def main() -> None:
    """Measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("scans", type=Path, nargs="+", help="at least two meshes")
    parser.add_argument("--cores", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if len(options.scans) < 2:
        parser.error("give at least two scans: the first is measured separately")
    torch.set_num_threads(options.cores)
    figures = measure(options.run, options.scans)
    for name, value in figures.items():
        print(f"{name:12} {value:.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
