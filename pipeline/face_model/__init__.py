"""Parametric faces for demonstrations and tests: shapes, expressions and textures."""
