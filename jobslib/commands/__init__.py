"""What ``runjob`` can do apart from running a task.

Each command is a module here, named for it, with

- ``DESCRIPTION``, one sentence,
- ``add_arguments(parser)``, which adds the arguments of this command,
- ``run(config)``, which carries it out and returns an
  :class:`jobslib.exitcodes.ExitCode`; its arguments are attributes of
  ``config.args``, and ``config.task_cls`` is ``None`` when no task is named,

and, where it needs them,

- ``OPTIONS``, the flags of those options of a run that its help shows; ``None``
  for all of them.  Every command takes them, and most need none,
- ``TAKES_TASK = False`` if no task can be named,
- ``NAME_HELP`` and ``USAGE``, which replace those of other commands in its help.

``exec`` has no ``run``, because it is not a command like the others, but a run.

An exception of ``run`` is reported in one line: a ``ConfigError`` with the exit
code 2, a ``LockUnavailableError`` with 5.  SIGTERM and SIGINT are raised in
it as ``KeyboardInterrupt``.  :mod:`jobslib.commands.common` has what several
commands need, :mod:`jobslib.commands.output` how they show things.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

__all__ = ['COMMANDS', 'describe_commands', 'load_command']

#: The commands, and the modules that they are in.
COMMANDS: dict[str, str] = {
    'check': 'jobslib.commands.check',
    'status': 'jobslib.commands.status',
    'pause': 'jobslib.commands.pause',
    'resume': 'jobslib.commands.resume',
    'run': 'jobslib.commands.run',
    'stop': 'jobslib.commands.stop',
    'skip': 'jobslib.commands.skip',
    'release': 'jobslib.commands.release',
    'handover': 'jobslib.commands.handover',
    'check-liveness': 'jobslib.commands.check_liveness',
    'completion': 'jobslib.commands.completion',
    'exec': 'jobslib.commands.exec',
}


def load_command(name: str) -> ModuleType:
    """Return the module of the command *name*."""
    # Imported here, because a task starts without any command.
    import importlib
    return importlib.import_module(COMMANDS[name])


def describe_commands() -> dict[str, str]:
    """Return the description of each command, for the help."""
    return {name: load_command(name).DESCRIPTION for name in COMMANDS}
