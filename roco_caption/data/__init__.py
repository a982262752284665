"""Data: download ROCO or draw its synthetic stand-in, read the splits, decode image files."""
