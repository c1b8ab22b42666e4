"""Classifiers of embeddings (zero-shot, kNN, linear probe) and their metrics, as pure functions on arrays.

Shared by training, evaluation and prediction.
"""
