"""What holds for every test."""

import resource
import signal

import pytest


def pytest_configure():
    """Let tests interrupt their processes, which ignored that where a shell runs this behind."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
