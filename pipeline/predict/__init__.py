"""The predict stage: expressions of scans by a trained run. Other stages use `predictor.py` and `inputs.py` only."""
