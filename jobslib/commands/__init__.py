"""What ``runjob`` can do beside running a task.

Each command is a module here, named for it, with

- ``DESCRIPTION``, one sentence,
- ``add_arguments(parser)``, which adds the arguments that are its own,
- ``run(config)``, which does it and returns an
  :class:`jobslib.exitcodes.ExitCode`; its arguments are attributes of
  ``config.args``, and ``config.task_cls`` is ``None`` when no task is named.
"""

__all__ = ['COMMANDS']

#: The commands, and the modules that they are in.
COMMANDS: dict[str, str] = {
    'check-liveness': 'jobslib.commands.check_liveness',
}
