"""Reading meshes, textures and landmarks: one file a format, and the Mesh type."""
