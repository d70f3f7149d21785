"""The supervisor: it has the loop and the lock, and runs no code of a task.

It is the process that people start and signal.  The first thing that it does is to
fork the run's process, which reads the command line and the settings and makes the
task.  Their values come back as plain data.
"""

from __future__ import annotations

import os
import signal
import sys

from jobslib import __version__, needs
from jobslib.config import Config
from jobslib.environment import NOTIFY_SOCKET
from jobslib.exceptions import ConfigError, LockError, Terminate
from jobslib.exitcodes import ExitCode
from jobslib.interrupts import Interrupts
from jobslib.logs import protect
from jobslib.run.channel import fill_standard
from jobslib.run.handle import RunHandle
from jobslib.run.prctl import adopt_orphans
from jobslib.run.result import describe_end
from jobslib.schedule.ledger import Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from jobslib.context import Context
    from jobslib.documents import Document
    from jobslib.observers import Observer
    from jobslib.oneinstance import BaseLock
    from jobslib.run.handle import Body

__all__ = ['ResolvedConfig', 'answers_of', 'configure_logging',
           'export_config', 'supervise']


#: How long the answer to a question of a task may take until the supervisor is taken
#: to stand still, in seconds.
LONGEST_ANSWER = 60.0


class ResolvedConfig(Config):
    """The configuration, with the values that the run's process has read.

    Options of a user's own class are attributes here as well.
    """

    def __getattr__(self, name: str) -> object:
        values = self.__dict__.get('_values', {})
        if name in values:
            return values[name]
        raise AttributeError(f'{type(self).__name__} has no option {name!r}; '
                             f'the supervisor has those that fit into JSON')

    def _restore_group(self, name: str, exported: dict[str, object]) -> object:
        declared = self.declared().get(name)
        if declared is None or declared.attrtype is None:
            # The class of this option is a user's, and stays in the run's process.
            return exported['values']
        return super()._restore_group(name, exported)


def export_config(config: Config) -> dict[str, object]:
    """Return *config* for the supervisor, as JSON takes it."""
    exported = config.export()
    # It may have classes and functions in it, which JSON cannot hold.
    exported['values'].pop('logging', None)
    logging = None
    if config.logging is not None:
        import base64
        import pickle
        try:
            logging = base64.b64encode(pickle.dumps(config.logging)).decode()
        except Exception as exc:
            raise config.error(
                'logging', f'it cannot be handed to the supervisor, another '
                f'process ({exc}); allowed: what pickle can store, classes '
                f'and functions by their dotted paths') from None
    return exported | {'logging': logging, 'task_name': config.task_name}


def supervise(body: Body) -> int:
    """Run a job.

    :param body: what the run's process does.
    :returns: an :class:`jobslib.exitcodes.ExitCode`, or what the run's
        process ended with before there was a job.
    """
    fill_standard()
    # If SIGCHLD is ignored, which a process inherits from the one that started it,
    # the kernel drops the exit codes of children.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if os.readlink('/proc/self') != str(os.getpid()):
        return _fail('/proc is that of another PID namespace, and what a run '
                     'leaves running could not be told from what is not ours; '
                     'mount the proc of this one (unshare --mount-proc)')
    with Interrupts() as interrupts:
        try:
            adopt_orphans()
            process = RunHandle(body, interrupts)
            with interrupts.interruptible():
                process.start()
                told = process.first_word()
                if 'leaves' in told:
                    code = process.finish()
                    return (code if interrupts.pending is None
                            else ExitCode.TERMINATED)
        except Terminate:
            process.kill()
            return ExitCode.TERMINATED
        except (OSError, AttributeError) as exc:
            # A need that is not met is the better reason, because it says what to do.
            return _fail(needs.missing() or f'no process can be started for '
                                            f'the task: {exc}')
        if 'exit' in told:
            return _report_death(told['exit'])
        try:
            return _supervise(process, told['config'], interrupts)
        finally:
            process.finish()


def _report_death(code: int) -> int:
    """Report that the process ended before it had read its options.

    :param code: its exit code; a signal is a negative number.
    """
    print(f'runjob: error: the task, or the settings, cannot be imported: '
          f'{describe_end(code)}', file=sys.stderr)
    # A process that has lost its connection has itself reported that it was refused.
    return ExitCode.USAGE if code == ExitCode.USAGE else ExitCode.TASK_FAILED


def _supervise(process: RunHandle, exported: Document,
               interrupts: Interrupts) -> int:
    if lack := needs.missing():
        # Without these calls nobody could end a run, so there is no lock either.
        return _fail(lack)
    config = _restore(exported)
    if config.cold_standby:
        process.finish()
    else:
        process.begin_making()
    try:
        logger = configure_logging(config)
        protect()
        for remark in exported['remarks']:
            logger.warning('%s', remark)
        config.hide_secrets()
        context: Context = config.make_context()
        lock = context.one_instance_lock
        _refuse_half_a_lock(lock, config)
    except (ConfigError, LockError) as exc:
        return _refuse(str(exc), exc)
    process.questions.answers = answers_of(lock, context)
    process.grace = lock.watchdog.grace
    if not config.cold_standby:
        with interrupts.interruptible(process.interrupt):
            made = process.end_making()
        if interrupts.pending is not None:
            logger.info('ended by %s', interrupts.pending)
            return ExitCode.TERMINATED
        if 'refused' in made:
            return _refuse(made['refused'])
        if not made.get('made'):
            if 'exit' in made:
                logger.error('the task cannot be made: %s',
                             describe_end(made['exit']))
            # A process that has lost its connection has itself reported that it was
            # refused.
            return (ExitCode.USAGE if made.get('exit') == ExitCode.USAGE
                    else ExitCode.TASK_FAILED)
    return _run(process, lock, context, config, interrupts, logger)


def _refuse_half_a_lock(lock: BaseLock, config: Config) -> None:
    """Refuse a user's lock that lacks methods.

    :raises ConfigError: it lacks a method that each lock must have.
    """
    from jobslib.oneinstance import BaseLock
    lacking = [name for name in ('acquire', 'release', 'held')
               if getattr(type(lock), name) is getattr(BaseLock, name)]
    if lacking:
        raise config.one_instance.error(
            'backend', f'it lacks {", ".join(lacking)}, which BaseLock leaves '
                       f'to its subclasses')


def _restore(exported: Document) -> ResolvedConfig:
    config = ResolvedConfig.restore(exported)
    logging = exported['logging']
    if logging is not None:
        import base64
        import pickle
        logging = pickle.loads(base64.b64decode(logging))
    config._values['logging'] = logging
    config._values['context_class'] = 'jobslib.context.Context'
    config.task_cls = type('Task', (), {'name': exported['task_name']})
    return config


def _fail(message: str) -> int:
    print(f'runjob: error: {message}', file=sys.stderr)
    return ExitCode.LOCK_SERVICE_UNAVAILABLE


def _refuse(message: str, exc: Exception | None = None) -> int:
    if isinstance(exc, ConfigError) and exc.__cause__ is not None:
        # Code of the user that broke.
        import traceback
        traceback.print_exception(exc.__cause__)
    from jobslib.folding import folded
    print(folded(f'runjob: error: {message}', sys.stderr), file=sys.stderr)
    return ExitCode.USAGE


def answers_of(lock: BaseLock, context: Context) -> Document:
    """Return what the run's process may ask, by name."""
    def patiently(call: Callable[..., object]) -> Callable[..., object]:
        def answer(*args: object) -> object:
            # A service may be slow to answer, and so may a user's class.  While the
            # supervisor waits for it, it must not be taken to stand still.
            with lock.silence(LONGEST_ANSWER):
                return call(*args)
        return answer

    answers: dict[str, Callable[..., object]] = {
        'own_record': lambda: lock.own_record,
        'control': lambda: lock.control.export(),
        'refresh': lock.refresh,
        'lease_left': lock.lease_left,
        'get_lock_owner_info': lock.get_lock_owner_info,
        'report_progress': lock.report_progress,
        'push': lambda metrics: context.metrics.push(metrics)}
    return {name: patiently(call) for name, call in answers.items()}


def _run(process: RunHandle, lock: BaseLock, context: Context,
         config: Config, interrupts: Interrupts,
         logger: logging.Logger) -> int:
    from jobslib.clock import Clock
    from jobslib.loop.runner import Runner
    from jobslib.schedule.agenda import Agenda
    clock = Clock()
    plan = config.make_plan(config.task_name)
    agenda = Agenda(
        plan, clock, lock.machine(), keeps=config.keep_lock,
        records=_find_records(lock, config), one_run=config.run_once)
    try:
        observers = _make_observers(
            process, lock, context, config, interrupts, logger)
    except (ConfigError, LockError) as exc:
        return _refuse(str(exc), exc)
    logger.info(
        'jobslib %s; lock %s; schedule: %s', __version__,
        _name_place(lock), agenda.explain())
    try:
        return Runner(process, lock, config, agenda, clock, interrupts,
                      logger, observers).run()
    except ConfigError as exc:
        # Only the lock service could know that the option is wrong.
        return _refuse(str(exc))


def _name_place(lock: BaseLock) -> str:
    """Return the class of the lock and its place, for the first line of the log."""
    place = lock.place
    return ' '.join(filter(None, (
        type(lock).__name__, place['key'],
        place['address'] and f'({place["address"]})')))


def _find_records(lock: BaseLock, config: Config) -> Records:
    """Return what the holder writes into the ledger while it holds the lock."""
    if not config.keep_lock or lock.saves_for_nothing:
        return Records.BEGINS
    # Without recoveries each begin is recorded as well, but nobody waits until it
    # is written, so a slot without a record may have begun all the same.
    if config.history or config.recoveries == 0:
        return Records.ENDS
    return Records.NOTHING


def _make_observers(process: RunHandle, lock: BaseLock, context: Context,
                    config: Config, interrupts: Interrupts,
                    logger: logging.Logger) -> list[Observer]:
    """Return the observers of the loop that are configured."""
    from jobslib.logs import RunFields
    from jobslib.loop.hooks import TaskHooks
    # These are first, so that what the others log has the fields of the run.
    observers: list[Observer] = [RunFields(config.task_name)]
    if NOTIFY_SOCKET in os.environ:
        # This one is next, so that the end is told before a last push, which may be
        # slow.
        from jobslib.notify import NotifyObserver
        notify = NotifyObserver.from_environment(logger)
        if notify is not None:
            observers.append(notify)
    if config.liveness.raw_value('backend') is not None:
        observers.append(context.liveness.make_observer())
    if config.metrics.raw_value('backend') is not None:
        from jobslib.metrics.observer import MetricsObserver
        observers.append(MetricsObserver(context))
    # The hooks are last, so that no other observer waits for them.
    observers.append(TaskHooks(
        process, lock, interrupts, logger, config.max_hook_time))
    return observers


def configure_logging(config: Config) -> logging.Logger:
    """Configure logging as *config* says; return the logger of the loop.

    :raises ConfigError: :mod:`logging.config` refuses the dict.
    """
    import logging

    from jobslib.logs import install, make_handler
    if config.logging is None:
        # Forced, because an import may have logged or configured something.
        logging.basicConfig(level=config.log_level.upper(), force=True,
                            handlers=[make_handler(config.log_format)])
    else:
        import logging.config
        try:
            logging.config.dictConfig(
                {'disable_existing_loggers': False} | config.logging)
        except (ValueError, TypeError, AttributeError, ImportError) as exc:
            causes = [str(each) for each in (exc, exc.__cause__) if each]
            raise config.error('logging', ': '.join(causes)) from None
    install(config.task_name)
    return logging.getLogger('jobslib')
