"""Meshes and textures: the `Mesh` type and one reader per file format."""
