"""Scales pictures of more than 8 bits per channel to the range of values that they use."""

import numpy as np


def limits(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest value of a picture, without NaN, infinity and outliers.

    Outliers, such as hot pixels, are further from the central 99 % of values than twice their
    range; if that is 0, nothing is an outlier. Raises a ValueError if no value is finite.
    """
    sample = values.reshape(-1)[:: values.size // 1_000_000 | 1]  # odd: not one column again
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise ValueError("it has no finite pixels")
    low, high = np.percentile(sample, [0.5, 99.5], method="nearest")  # of the values' own dtype
    reach = 2 * (float(high) - float(low)) or 1e38  # and infinity is always beyond
    lowest, highest = float(low) - reach, float(high) + reach
    if not (lowest <= values.min() and values.max() <= highest):
        values = values[(values >= lowest) & (values <= highest)]
    return float(values.min()), float(values.max())


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high` to 255, rounding down; values beyond are clipped, NaN is 0."""
    result = np.empty(values.shape, np.uint8)
    scale = 255 / max(high - low, 1e-30)
    for row, line in zip(result, values, strict=True):  # by rows: floats need four times the memory
        row[:] = (np.minimum(np.fmax(line.astype(np.float32), low), high) - low) * scale
    return result


def colour_to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale RGB or RGBA values, uint16 or float32 (height, width, 3 or 4), to uint8.

    Colours that reach the upper half of the full range (65535, of floats 1, 255 or 65535) are
    scaled by it; others, such as 12 bits of 16, by their own limits.
    """
    colour, alpha = np.ascontiguousarray(values[..., :3]), values[..., 3:]
    visible = (alpha > 0).all(axis=-1)
    low, high = limits(colour[visible] if visible.any() and not visible.all() else colour)
    full = _full(values, high)
    if low >= 0 and full < np.inf and (high > full / 2 or low == high):
        # 16 bits keep their upper 8, floats are rounded
        low = 0 if values.dtype == np.uint16 else -full / 510
        high = low + full
    full_alpha = _full(values, alpha.max(initial=0))
    return np.concatenate([to_uint8(colour, low, high), to_uint8(alpha, 0, full_alpha)], axis=-1)


def _full(values: np.ndarray, high: float) -> float:
    if values.dtype == np.uint16:
        return 255 * 256
    return next((full for full in (1, 255, 65535) if high <= full), np.inf)
