"""Code shared by several stages: the Ray session, the directory lock, sample filters, and expression names."""
