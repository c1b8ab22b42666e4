"""A trained model in formats that others read."""
