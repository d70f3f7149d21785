"""Fixtures of all unit tests."""

import os
import signal

import pytest


def pytest_configure() -> None:
    """Be interrupted by SIGINT, which a shell ignores for its background jobs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the environment says to jobslib."""
    for name in list(os.environ):
        if name.startswith(('JOBSLIB_', 'CONSUL_')):
            monkeypatch.delenv(name)
