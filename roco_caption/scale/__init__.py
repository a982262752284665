"""Encoding and training past one machine (an optional extra; nothing imports this room)."""
