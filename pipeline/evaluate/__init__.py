"""The evaluation stage: embeddings, protocols, scores and the report."""
