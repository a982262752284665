"""Each stage beside the classic loop of the Keras captioning notebooks, and beside its limit."""
