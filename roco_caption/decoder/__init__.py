"""The decoder: image features and the words so far to the next word."""
