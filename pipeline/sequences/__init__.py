"""Sequences of scans: frame sampling, displacement and flow, and dynamic images."""
