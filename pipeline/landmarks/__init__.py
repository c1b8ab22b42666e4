"""Landmarks: files, facial parts, and alignment of a face to the canonical frame."""
