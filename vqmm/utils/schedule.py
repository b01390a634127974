"""How the learning rate moves."""

import math


def warmup_cosine(step: int, steps: int, warmup: float, floor: float = 0.01) -> float:
    """A factor for the learning rate: rises over the first share `warmup` of the steps, then half a cosine to `floor`.

    `step` counts from 0; the first step already moves.
    """
    rise = max(round(warmup * steps), 1)
    if step < rise:
        return (step + 1) / rise
    along = min((step - rise) / max(steps - rise, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along))
