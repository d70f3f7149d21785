"""Log records that say which run they belong to, as text and as JSON."""

from __future__ import annotations

import contextlib
import logging
import time

from jobslib.machine import fqdn
from jobslib.observers import Observer
from jobslib.runs import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jobslib.runs import Run

__all__ = ['FIELDS', 'JsonFormatter', 'RunFields', 'RunFilter', 'handlers',
           'install', 'make_handler', 'protect', 'set_run', 'with_traceback']

#: The attributes that log records have beyond those of :mod:`logging`.
FIELDS = ('task', 'run', 'outcome', 'duration', 'fencing_token', 'error')

TEXT_FORMAT = '%(asctime)s %(levelname)s %(name)s: %(message)s'

# The attributes that logging gives to each record; taskName since Python 3.12.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    'message', 'asctime', 'taskName'}
# Keys of a JSON line that a record's own fields must not take.
TAKEN = frozenset({'timestamp', 'level', 'logger', 'fqdn', 'pid', 'message',
                   'exception', 'stack'})

# The fields of the run that this process is in, for all threads.  The dict is
# replaced as a whole and never changed, so that no thread sees a part of it.
_current: Mapping[str, object] = {}


class RunFields(Observer):
    """Keeps track of the run that log records belong to.

    A record has the fencing token while the lock is held, and the number of
    the run from its beginning until the next thing that the loop does.

    :param task: name of the task.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._token: int | None = None

    def acquired(self, token: int | None) -> None:
        self._token = token
        self._set()

    def run_begins(self, run: Run) -> None:
        self._token = run.token
        self._set(run=run.number)

    def waiting(self, due: float) -> None:
        self._set()

    def standby(self, reason: str) -> None:
        self._set()

    def released(self) -> None:
        self._token = None
        self._set()

    def lost(self, reason: str) -> None:
        self.released()

    def _set(self, **fields: object) -> None:
        global _current
        _current = {'task': self._task, 'fencing_token': self._token} | fields


def set_run(token: int | None, run: int | None = None) -> None:
    """Set the run that records of this process belong to.

    :param token: the fencing token.
    :param run: its number, ``None`` between two runs.
    """
    global _current
    fields = {} if run is None else {'run': run}
    _current = {'task': _current.get('task'), 'fencing_token': token} | fields


class RunFilter(logging.Filter):
    """Gives all records the attributes :data:`FIELDS`, and lets them pass.

    An attribute that a record has already is not changed; one that is not known is
    ``None``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        current = _current
        for name in FIELDS:
            if name not in record.__dict__:
                record.__dict__[name] = current.get(name)
        return True


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    The keys are ``timestamp`` (UTC, ISO 8601 with milliseconds), ``level``,
    ``logger``, ``fqdn`` and ``pid`` of the process, ``message``, the
    :data:`FIELDS`, ``exception`` and ``stack`` (texts of several lines), then
    the fields of the record's own ``extra``; a field with the name of one of
    these keys gets the prefix ``extra_``.  What is ``None`` is left out.  What
    JSON cannot hold becomes a string.  Nothing that a record contains makes the
    formatter fail.
    """

    def __init__(self) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        try:
            return _to_json(self.fields(record))
        except Exception as exc:
            return _to_json({
                'timestamp': _timestamp(time.time()), 'level': 'ERROR',
                'logger': __name__, 'message': _to_text(record.__dict__),
                'exception': f'{type(exc).__name__}: {_to_text(exc)}'})

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Return what the line says; to be extended by subclasses."""
        current = _current
        found: dict[str, object] = {
            'timestamp': _timestamp(record.created),
            'level': record.levelname,
            'logger': record.name,
            'fqdn': fqdn(),
            'pid': record.process,
            'message': _message(record)}
        for name in FIELDS:
            found[name] = record.__dict__.get(name, current.get(name))
        if record.exc_info and record.exc_info[0] is not None:
            found['exception'] = self.formatException(record.exc_info)
            if found['error'] is None and record.exc_info[1] is not None:
                found['error'] = describe(record.exc_info[1])
        elif record.exc_text:
            found['exception'] = record.exc_text
        if record.stack_info:
            found['stack'] = self.formatStack(record.stack_info)
        for name, value in list(record.__dict__.items()):
            if name not in STANDARD and name not in FIELDS:
                found[f'extra_{name}' if name in TAKEN else name] = value
        return {name: value for name, value in found.items()
                if value is not None}


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that does not fail when the task has closed the stream."""

    def handleError(self, record: logging.LogRecord) -> None:
        # The failure would be reported on standard error, which is the same
        # stream, and closed.
        with contextlib.suppress(ValueError):
            super().handleError(record)


def handlers() -> Iterator[logging.Handler]:
    """Return the handlers of all loggers."""
    root = logging.getLogger()
    others = list(root.manager.loggerDict.values())
    seen = set()
    for logger in (root, *others):
        for handler in getattr(logger, 'handlers', ()):
            if handler not in seen:
                seen.add(handler)
                yield handler


def install(task: str) -> None:
    """Let all handlers that exist now give records the fields of the run.

    :param task: name of the task.
    """
    global _current
    _current = {'task': task}
    for handler in handlers():
        if not any(isinstance(each, RunFilter) for each in handler.filters):
            handler.addFilter(RunFilter())


def protect() -> None:
    """Catch the exceptions of all handlers that exist now.

    Otherwise a handler of a user with a mistake in it, or one whose service does
    not answer, would end a loop that only wants to report something.  The
    exception is shown on standard error, as :mod:`logging` does where a handler
    asks for it.
    """
    for handler in handlers():
        setattr(handler, 'handle', _protected(handler))


def _protected(
        handler: logging.Handler) -> Callable[[logging.LogRecord], object]:
    handle = handler.handle

    def protected(record: logging.LogRecord) -> object:
        try:
            return handle(record)
        except (Exception, SystemExit):
            with contextlib.suppress(Exception):
                logging.Handler.handleError(handler, record)
            return False
    return protected


def with_traceback(logger: logging.Logger, traceback: str | None, message: str,
                   *args: object, **extra: object) -> None:
    """Log an error with the *traceback* of another process.

    :param extra: fields of the record.
    """
    if not logger.isEnabledFor(logging.ERROR):
        return
    record = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, message, args, None,
        extra=extra)
    record.exc_text = traceback
    logger.handle(record)


def make_handler(log_format: str) -> logging.Handler:
    """Return a handler that writes to standard error.

    :param log_format: ``text`` or ``json``.
    """
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if log_format == 'json'
                         else logging.Formatter(TEXT_FORMAT))
    return handler


def _timestamp(created: float) -> str:
    seconds, milliseconds = divmod(int(created * 1000), 1000)
    text = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))
    return f'{text}.{milliseconds:03d}Z'


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        # The arguments do not fit the message, so both are shown as they are.
        return f'{_to_text(record.msg)} {_to_text(record.args)}'


def _to_json(fields: Mapping[str, object]) -> str:
    import json

    def dump(value: object) -> str:
        return json.dumps(value, default=_to_text, allow_nan=False)

    try:
        return dump(fields)
    except Exception:
        # A field is nested too deeply, is not a number, has keys that are not
        # strings, or the like; then only that field becomes a string.
        parts = []
        for name, value in fields.items():
            try:
                text = dump(value)
            except Exception:
                text = dump(_to_text(value))
            parts.append(f'{dump(_to_text(name))}: {text}')
        return f'{{{", ".join(parts)}}}'


def _to_text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f'<{type(value).__name__}>'
