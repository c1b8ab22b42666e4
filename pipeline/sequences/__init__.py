"""Faces in time: which frames of a sequence are rendered, how far they moved, and one image for all of them."""
