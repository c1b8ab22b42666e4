"""The page of a cross-validation."""

from pipeline.crossvalidation.manifest import CrossvalManifest


def crossval_page(manifest: CrossvalManifest) -> str:
    """Self-contained HTML."""
    return ""
