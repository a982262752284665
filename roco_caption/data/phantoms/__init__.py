"""data/phantoms."""
