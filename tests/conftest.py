"""What holds for every test."""

import gc
import resource
import signal

import keras
import pytest


def pytest_configure(config):
    """Let tests interrupt their processes, which a shell makes background jobs ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "tensorflow(why): skipped with another Keras backend")


def pytest_collection_modifyitems(items):
    """Begin with the longest tests, so that no worker ends with one alone."""
    items.sort(key=lambda item: not item.get_closest_marker("first"))


@pytest.fixture(scope="module", autouse=True)
def release_graphs():
    """Free the compiled graphs of a module's tests: they grew to several gigabytes per worker."""
    yield
    keras.backend.clear_session()
    gc.collect()


def pytest_runtest_setup(item):
    """Skip what only TensorFlow can do."""
    if (
        marker := item.get_closest_marker("tensorflow")
    ) and keras.backend.backend() != "tensorflow":
        pytest.skip(f"TensorFlow is not in use: {marker.args[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Keep a test's limit on the size of files from the log that pytest itself writes.

    A fixture would undo the limit too late: pytest reports a test before it tears it down.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
