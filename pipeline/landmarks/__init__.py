"""Landmark files, landmark regions, and the alignment of a face to the canonical frame."""
