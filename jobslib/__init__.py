"""Runs Python jobs that must be alive on exactly one of several machines."""

from functools import cached_property

from jobslib.cmdlineparser import argument
from jobslib.config import Config, ConfigGroup, option
from jobslib.context import Context
from jobslib.exceptions import (
    JobsLibError,
    OneInstanceWatchdogError,
    TaskError,
    Terminate,
)
from jobslib.tasks import BaseTask

__all__ = [
    'BaseTask',
    'Config',
    'ConfigGroup',
    'Context',
    'JobsLibError',
    'OneInstanceWatchdogError',
    'TaskError',
    'Terminate',
    'argument',
    'cached_property',
    'option',
]

__version__ = '4.0.0'
