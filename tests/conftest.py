"""What holds for every test."""

import resource

import pytest


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
