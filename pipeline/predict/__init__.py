"""What prediction is made of: scans that no dataset lists, and the heads that name what their embeddings show."""
