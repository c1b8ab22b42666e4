"""What the evaluation stage is made of: embeddings, protocols, plots and the report."""
