"""From shards to tensors: the dataset, decoding, augmentation, and what a damaged shard means."""
