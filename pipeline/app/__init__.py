"""The app stage: a page on which visitors send a face and see what a run predicts for it."""
