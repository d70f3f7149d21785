"""Fixtures of all unit tests."""

import os

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the environment says to jobslib."""
    for name in list(os.environ):
        if name.startswith(('JOBSLIB_', 'CONSUL_')):
            monkeypatch.delenv(name)
