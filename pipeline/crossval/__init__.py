"""The cross-validation stage: train and score every fold, and report the scores together."""
