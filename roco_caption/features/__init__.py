"""Image features: encoders, the cache of what they computed, and precomputed features."""
