"""Constants and learning rate schedule of the optimiser, shared by training and fine-tuning."""

import math

MAX_GRADIENT_NORM = 5.0
BETAS = (0.9, 0.98)
# Peak learning rates; the second is for towers that were trained on far more data than one of these runs has.
LEARNING_RATE, PRETRAINED_LEARNING_RATE = 1e-3, 3e-5


def cosine_schedule(step: int, num_steps: int, warmup: float) -> float:
    """Compute the factor of the learning rate: linear warm-up to 1, then half a cosine to 0.

    Args:
        step: Number of steps done.
        num_steps: Number of all steps.
        warmup: Fraction of all steps that the warm-up takes.
    """
    num_warmup = warmup * num_steps
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - num_warmup) / max(num_steps - num_warmup, 1))
