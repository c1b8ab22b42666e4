"""What a shard is: manifests, the sample codec, writing, reading, sampling and splitting. No Ray, no model."""
