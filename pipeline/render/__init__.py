"""How a render is done: pieces of samples are read, rendered and encoded on Ray, and shards are written."""
