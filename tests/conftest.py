"""What holds for every test."""

import resource
import signal

import keras
import pytest


def pytest_configure(config):
    """Let tests interrupt their processes, which ignored that where a shell runs this behind."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "tensorflow(why): left out where Keras has another backend")


def pytest_runtest_setup(item):
    """Leave out what TensorFlow alone can do."""
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
