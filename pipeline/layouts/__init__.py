"""How datasets lie on disk: one file a layout; each finds samples and their labels."""
