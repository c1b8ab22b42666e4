"""Heads: how embeddings become probabilities of named expressions, by words, by neighbours, or by a line between them.

Pure functions on arrays, shared by training, evaluation and prediction.
"""
