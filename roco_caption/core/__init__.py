"""Errors, files, the machine, Keras' backend and progress bars: what every other room uses."""
