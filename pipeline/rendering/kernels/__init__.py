"""Compiled loops of the z-buffer renderers: project vertices, rasterise faces, shade pixels."""
