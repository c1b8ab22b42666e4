"""The shard format: manifests, index, sample codec, writer, reader, sampler and splits. No Ray, no models."""
