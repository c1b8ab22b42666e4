"""The landmark training stage: the weights of the detector that finds landmarks on scans without any."""
