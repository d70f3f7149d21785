"""Answering what a task asks its supervisor; the side of the task is in
:mod:`~jobslib.run.link`."""

from __future__ import annotations

import select

from jobslib.exceptions import LockError
from jobslib.runs import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from jobslib.documents import Document
    from jobslib.run.channel import Channel

__all__ = ['Questions']

# How many questions are answered before something else is done, however fast they
# come.
MOST_QUESTIONS = 1000


class Questions:
    """The questions of the run's process, and of those that take its place."""

    def __init__(self) -> None:
        #: What answers the questions, by the name of the method.
        self.answers: dict[str, Callable[..., object]] = {}
        #: The channel that brings them, while there is a process that can ask.
        self.channel: Channel | None = None

    def answer_all(self) -> None:
        """Answer what is asked by now.

        Threads that a run has left may ask something at any time.
        """
        for _ in range(MOST_QUESTIONS):
            if (self.channel is None
                    or not select.select([self.channel], [], [], 0)[0]):
                return
            self.answer()

    def answer(self) -> None:
        """Answer the next question; wait for it if there is none."""
        assert self.channel is not None
        received = self.channel.receive()
        if received is None:
            self.close()
            return
        question = received[0]
        answer = self._find_answer(question)
        if question['id']:
            try:
                self.channel.send({'id': question['id']} | answer)
            except ConnectionError:
                pass

    def close(self) -> None:
        """Close the channel, so that nothing more is asked or answered."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def _find_answer(self, question: Document) -> Document:
        """Return the ``value`` that was asked for, or the ``error``."""
        try:
            value = self.answers[question['method']](*question['args'])
            if question['id']:
                import json
                json.dumps(value)
            return {'value': value}
        except (LockError, NotImplementedError) as exc:
            return {'error': str(exc)}
        except Exception as exc:
            # A lock of a user may have a mistake in it.
            return {'error': describe(exc)}
