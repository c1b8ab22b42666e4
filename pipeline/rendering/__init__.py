"""Render meshes in the canonical frame to multiview images: camera rigs, backends, supersampling and encoding."""
