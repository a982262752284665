"""Scores of captions with intervals, baselines to compare with, and checks of what captions say."""
