"""The compiled loops of the `zbuffer` renderer: vertices to the screen, faces to pixels, pixels to images."""
