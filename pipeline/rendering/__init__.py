"""From meshes and a rig of cameras to view images: the canonical frame, rigs, and one file a renderer."""
