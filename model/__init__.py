"""SMILE-VLM and its family in plain PyTorch: towers, fusion, losses, recipes. No Ray, no files, no PyTorch3D."""
