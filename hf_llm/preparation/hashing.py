"""One hash of 64 bits for n-grams and bands, the same on every machine and at numpy's speed."""

import numpy as np

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / the golden ratio, odd


def mix(state: np.ndarray, value: np.ndarray) -> np.ndarray:
    """One more value in a hash, uint64 both."""
    state = (state ^ value) * MULTIPLIER
    return state ^ (state >> np.uint64(29))
