"""Captions as words, as token numbers, as sentences again, and as n-gram vectors."""
