"""Cards: what shards and runs say of themselves to people, as `README.md` beside the manifest that it is told from.

Their first lines are the metadata that the Hugging Face hub reads; nothing in them is of a machine or of a moment, so
that equal manifests give equal cards.
"""
