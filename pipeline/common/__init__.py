"""What several stages use: the Ray session, the directory lock, filters over labels, and expression names."""
