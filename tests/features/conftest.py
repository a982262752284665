"""A stand-in for VGG16, so that tests of the cache are fast."""

import gc

import keras
import pytest
from helpers.toy_features import tiny_encoder


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("roco_caption.features.extract.build_encoder", tiny_encoder)


@pytest.fixture(autouse=True)
def free_networks(request):
    """VGG16 alone takes half a gigabyte, twice that while its weights are drawn."""
    yield
    if request.module.__name__.endswith("test_encoder"):  # other tests' networks are tiny
        keras.backend.clear_session()
        gc.collect()
