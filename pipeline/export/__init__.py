"""The export stage: write a trained model in formats of other tools."""
