"""``runjob resume``: end a pause."""

from __future__ import annotations

import time

from jobslib.commands.asking import Answer, answer, ask
from jobslib.commands.common import add_json as add_arguments
from jobslib.config import Config
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = 'Let a job that is paused run again.'


def run(config: Config) -> ExitCode:
    """End the pause of the job, if it is paused."""
    def call(lock: BaseLock) -> Answer:
        def change(state: LockState) -> Control | None:
            if state.control.paused is None:
                return None
            return state.control.resumed(time.time())

        state = ask(lock, change)
        return ExitCode.DONE, ('is not paused' if state.control.paused is None
                               else 'resumed')

    return answer(config, call)
