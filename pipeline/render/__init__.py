"""The render stage: face scans to WebDataset shards of multiview images. Other stages use `process.py` only."""
