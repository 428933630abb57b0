"""A 64-bit hash for n-grams and MinHash bands: the same on every machine, and vectorized in numpy."""

import numpy as np

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / the golden ratio, odd


def mix(state: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Add one more value to each hash; both arrays are uint64."""
    state = (state ^ value) * MULTIPLIER
    return state ^ (state >> np.uint64(29))
