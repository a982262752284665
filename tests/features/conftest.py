"""A stand-in for VGG16, so that tests of the cache are fast."""

import pytest
from helpers.toy_features import tiny_encoder


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("roco_caption.features.extract.build_encoder", tiny_encoder)
