"""Texts of samples: prompts from labels, and captions from measured geometry or coded action units."""
