"""What the training stage is made of: its data, its step and its checkpoints."""
