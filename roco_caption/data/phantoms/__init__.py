"""Synthetic radiology images (phantoms) with known findings, and captions that state them."""
