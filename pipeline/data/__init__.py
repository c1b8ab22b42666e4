"""Shards to tensors: dataset, decoding, augmentation, and the handling of damaged shards."""
