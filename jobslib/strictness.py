"""What is refused at the start because it can only be a mistake.

The values of options are checked where these are declared
(:mod:`jobslib.options`).  Here is checked what no option sees: names in the settings
module and in the environment that no option has, options that have no effect
together, task classes that cannot work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

from jobslib.config import Config, ConfigGroup, option
from jobslib.exceptions import ConfigError
from jobslib.reading import mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['find_unknown_settings', 'refuse_class', 'refuse_slips',
           'remarks']

PREFIX = 'JOBSLIB_'
#: Variables that are not options: the first is read before there is a configuration,
#: the others are set for the processes that a run starts.
OTHER_VARIABLES = frozenset({
    'JOBSLIB_SETTINGS_MODULE', 'JOBSLIB_SLOT', 'JOBSLIB_FENCING_TOKEN',
    'JOBSLIB_JOB', 'JOBSLIB_LEASE'})
#: The modules of jobslib's own backends.  The variables of their options may be set
#: for other jobs of this machine, whose backends are not loaded here.
BACKENDS = ('jobslib.oneinstance.file', 'jobslib.oneinstance.consul',
            'jobslib.liveness.consul_check', 'jobslib.metrics.prometheus',
            'jobslib.metrics.influxdb')
# The types of settings.  Functions, classes and modules in a settings module were
# imported, or are for its own use.
PLAIN = (str, int, float, dict, list, tuple, type(None))

# The keys that logging.config.dictConfig knows, at its top and in some of its parts.
LOGGING_KEYS = frozenset({
    'version', 'formatters', 'filters', 'handlers', 'loggers', 'root',
    'incremental', 'disable_existing_loggers'})
LOGGER_KEYS = frozenset({'level', 'handlers', 'filters', 'propagate'})
FORMATTER_KEYS = frozenset({'format', 'datefmt', 'style', 'validate', 'class',
                            'defaults'})

# Flags of code objects: it takes *args; it yields, as a function or a coroutine.
TAKES_ANY = 0x04
YIELDS = 0x20 | 0x200

# The settings that name a backend, and what follows when none is named.
PARTS = {'one_instance': 'the lock is the default one, of this machine only',
         'liveness': 'no success is noted', 'metrics': 'nothing is measured'}

OWN_NAME = 'an own name has to differ more, or begin with an underscore'


def refuse_slips(config: Config) -> None:
    """Refuse names that no option has.

    :raises ConfigError: a name in the settings module is nearly that of an
        option, or a variable in the environment begins with ``JOBSLIB_`` and
        no option has it.
    """
    _refuse_slips_in_logging(config)
    for name, meant in _find_slips(config):
        raise ConfigError(
            f'unknown name {name!r} in settings module '
            f'{_name_of(config._settings)}; did you mean {meant!r}? ({OWN_NAME})')
    known = {*_variables(config), *OTHER_VARIABLES}
    ours = [name for name in os.environ if name.upper().startswith(PREFIX)]
    unknown = [name for name in ours if name not in known]
    # Names like JOBLIB_RUN_ONCE; other programs may have similar prefixes, so these
    # are refused only if the rest is an option.
    alike = [name for name in os.environ if name not in ours
             and name.upper().startswith('JO') and 'LIB' in name.upper()]
    if not unknown and not alike:
        return
    from jobslib.slips import is_slip, nearest
    for name in alike:
        for each in sorted(known):
            if is_slip(name, each):
                raise ConfigError(f'unknown variable {name} in the '
                                  f'environment; did you mean {each}?')
    if unknown:
        known |= _variables_of_all()
    for name in sorted(unknown):
        if name not in known:
            near = (f'{name}_BACKEND' if f'{name}_BACKEND' in known else
                    nearest(name, known, 0.0))
            raise ConfigError(
                f'unknown variable {name} in the environment, no option of '
                f'jobslib or of your classes has it; nearest known: {near}')


def _refuse_slips_in_logging(config: Config) -> None:
    """Refuse keys of ``LOGGING`` that are nearly those of ``dictConfig``, which
    passes over all keys that it does not know."""
    found = mapping(config.logging)
    loggers = mapping(found.get('loggers'))
    places = [('', found, LOGGING_KEYS),
              ("['root']", mapping(found.get('root')), LOGGER_KEYS)]
    places += [(f"['loggers'][{name!r}]", mapping(value), LOGGER_KEYS)
               for name, value in loggers.items()]
    places += [(f"['formatters'][{name!r}]", mapping(value), FORMATTER_KEYS)
               for name, value in mapping(found.get('formatters')).items()
               if '()' not in mapping(value)]
    for place, keys, known in places:
        for key in keys:
            if key in known:
                continue
            from jobslib.slips import is_slip
            for each in sorted(known):
                if is_slip(str(key), each):
                    raise ConfigError(
                        f'logging: unknown key {key!r} from '
                        f'{config.source("logging")}{place}; did you mean '
                        f'{each!r}?')


def find_unknown_settings(config: Config) -> list[str]:
    """Return the names of the settings module, in upper case, that no option
    has."""
    known = set(_setting_names(config))
    return [name for name, value in _names(config._settings)
            if name.isupper() and name not in known
            and not isinstance(value, ModuleType | type)]


def _find_slips(config: Config) -> Iterator[tuple[str, str]]:
    """Return the names that are slips, and what they mean."""
    known = set(_setting_names(config))
    unknown = [name for name, value in _names(config._settings)
               if name not in known and isinstance(value, PLAIN)]
    if not unknown:
        return
    from jobslib.slips import is_slip
    variables = {name.removeprefix(PREFIX): name
                 for name in _variables(config)}
    for name in unknown:
        for each in sorted(known):
            if is_slip(name, each):
                yield name, each
        # Something that is a part of a dict in the settings has a name of its own
        # in the environment, which is not a name of the settings.
        variable = name.upper().removeprefix(PREFIX)
        if variable in variables:
            yield name, _place(variable)


def _place(variable: str) -> str:
    """Return where in the settings the value of an environment variable belongs."""
    for part in ('ONE_INSTANCE', 'LIVENESS', 'METRICS'):
        if variable == f'{part}_BACKEND':
            return f"{part}['backend']"
        if variable.startswith(f'{part}_'):
            return f"{part}['options']"
    return variable


def _names(settings: object) -> list[tuple[str, Any]]:
    try:
        found = vars(settings)
    except TypeError:
        return []
    return [(name, value) for name, value in found.items()
            if not name.startswith('_')]


def _name_of(settings: object) -> str:
    return repr(getattr(settings, '__name__', type(settings).__name__))


def _setting_names(config: Config) -> Iterator[str]:
    for declared in config.declared().values():
        yield declared.setting_name(None)


def _variables(group: ConfigGroup) -> Iterator[str]:
    """Return the variables of all options of *group* and of its nested groups."""
    for name, declared in group.declared().items():
        yield from _variables_of(declared)
        value = group.raw_value(name)
        if isinstance(value, ConfigGroup):
            yield from _variables(value)


def _variables_of_all() -> set[str]:
    """Return the variables of all classes of options that are known."""
    from jobslib.imports import import_module
    for name in BACKENDS:
        import_module(name)
    found: set[str] = set()
    classes: list[type[ConfigGroup]] = [ConfigGroup]
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        for declared in cls.declared().values():
            found |= _variables_of(declared)
    return found


def _variables_of(declared: option[object]) -> set[str]:
    """Return the variable of an option, and the names that it had before."""
    return {*([declared.env] if declared.env else []),
            *getattr(declared, 'old', ())}


def remarks(config: Config) -> list[str]:
    """Return a sentence for each thing that is allowed and probably not meant:
    options that have no effect, and tasks of one name."""
    found = (_find_ineffective(config) + _find_unused_backends(config)
             + _find_empty_settings(config))
    if shared := _find_namesakes(config):
        found.append(
            f'{" and ".join(shared)} has the name {config.task_name!r} as well: '
            f'tasks of one name share one lock and one history, and run one at '
            f'a time')
    return found


def _find_ineffective(config: Config) -> list[str]:
    def given(name: str) -> bool:
        return (getattr(config, name) not in (None, False)
                and config.source(name) != 'default')

    def say(name: str, why: str) -> str:
        return f'{name} (from {config.source(name)}) has no effect {why}'

    found = []
    if given('release_on_error') and not config.keep_lock:
        found.append(say('release_on_error', 'without keep_lock: the lock is '
                         'released after every run'))
    if config.run_once and given('keep_lock'):
        found.append(say('keep_lock', 'with run_once: there is one run'))
    if config.one_instance.disabled and given('keep_lock'):
        found.append(say('keep_lock', 'with the lock disabled'))
    if config.schedule is None and config.run_interval_epoch is None and (
            given('time_zone')):
        found.append(say('time_zone', 'without schedule'))
    if config.schedule is None and not config.run_interval:
        found += [say(name, 'without schedule or run_interval') for name in (
            'jitter', 'catch_up', 'start_deadline') if given(name)]
        if not config.sleep_interval:
            found += [
                say(name, 'without schedule, run_interval or sleep_interval')
                for name in ('retries', 'retry_delay') if given(name)]
    elif not config.retries and given('retry_delay'):
        found.append(say('retry_delay', 'without retries'))
    elif config.retries and config.run_interval and (
            config.catch_up != 'all'
            and config.retry_delay >= config.run_interval):
        found.append(say(
            'retries', f'with a retry_delay of {config.retry_delay:g} s (from '
            f'{config.source("retry_delay")}) and a run_interval of '
            f'{config.run_interval:g} s: the next slot is always due first'))
    for part in ('one_instance', 'liveness'):
        options = getattr(config, part).options
        if getattr(options, 'scheme', None) == 'http':
            # What comes from the environment may be meant for other programs.
            found += [f'{part}.{name} (from {options.source(name)}) has no '
                      f'effect with the scheme http, which encrypts nothing'
                      for name in ('ca_cert', 'client_cert')
                      if name in options.declared()
                      and options.source(name).startswith('settings')]
    folder = getattr(config.one_instance.options, 'folder', None)
    if isinstance(folder, str) and folder and not os.path.isabs(folder):
        # That of an own lock may be something else, but hardly.
        found.append(
            f'folder (from {config.one_instance.options.source("folder")}) is '
            f'relative: a process that is started in another folder has another '
            f'lock')
    if config.logging is not None:
        found += [say(name, 'with logging, which says it all')
                  for name in ('log_format', 'log_level')
                  if name in config.declared() and given(name)]
    return found


def _find_unused_backends(config: Config) -> list[str]:
    """Return a sentence for each kind of backend for which options are set, but
    none is named.

    If one is named, options of others may be meant for other jobs.
    """
    known, found = set(_variables(config)), []
    settings = dict(_names(config._settings))
    for part, instead in PARTS.items():
        group = getattr(config, part)
        if getattr(group, 'disabled', False) or (
                group.source('backend') != 'default'):
            continue
        name = part.upper()
        unused = sorted(each for each in os.environ if each not in known
                        and each.startswith(f'{PREFIX}{name}_'))
        home = f'jobslib.{part.replace("_", "")}.'
        unused += [each for each in find_unknown_settings(config)
                   if str(mapping(settings[each]).get('backend')
                          ).startswith(home)]
        if unused:
            have = 'has' if len(unused) == 1 else 'have'
            found.append(
                f'{" and ".join(unused)} {have} no effect: neither '
                f"{name}['backend'] nor {PREFIX}{name}_BACKEND is set, so "
                f'{instead}')
    return found


def _find_empty_settings(config: Config) -> list[str]:
    """Return a sentence if the settings are a module without any setting."""
    settings = config._settings
    known = set(_setting_names(config))
    if not isinstance(settings, ModuleType) or known & set(vars(settings)):
        return []
    return [f'settings module {_name_of(settings)} has no setting that is '
            f'known ({settings.__file__})' if hasattr(settings, '__file__')
            else f'settings module {_name_of(settings)} has no setting that '
                 f'is known']


def refuse_class(path: str, task_cls: object) -> None:
    """Refuse a task class that cannot be run.

    :param path: how the user named it.
    :raises ConfigError: it says what is wrong with it.
    """
    from jobslib.tasks import BaseTask
    wrong = _find_fault(task_cls, BaseTask)
    if wrong is not None:
        raise ConfigError(f'task {path!r} {wrong}')


def _find_fault(found: object, base: type[Any]) -> str | None:
    if not (isinstance(found, type) and issubclass(found, base)):
        return 'is not a subclass of jobslib.BaseTask'
    task_cls: Any = found
    if task_cls is base:
        return 'is the base of all tasks; name a subclass of it'
    if task_cls.task is base.task:
        return 'has no method task(); that is what a run does'
    if not callable(task_cls.task):
        return 'has a task that is not a method'
    if not isinstance(task_cls.name, str):
        return (f'has the name {task_cls.name!r:.80}; allowed: a string')
    if not task_cls.name.isprintable():
        return (f'has the name {task_cls.name!r:.80}; allowed: printable '
                f'characters')
    if task_cls.name != task_cls.name.strip():
        return (f'has the name {task_cls.name!r:.80}; allowed: no spaces at the '
                f'beginning or end')
    if not isinstance(task_cls.description, str):
        return (f'has the description {task_cls.description!r:.80}; allowed: '
                f'a string')
    return (_find_fault_in_methods(task_cls)
            or _find_fault_in_arguments(task_cls.arguments))


def _find_fault_in_methods(task_cls: Any) -> str | None:
    """Return what is wrong with the parameters of the methods, if anything is.

    Only plain functions are looked at, since of anything else it cannot be known
    without calling it.
    """
    for name, given, hint in (
            ('task', 1, 'def task(self), with self.args for what it works on'),
            ('__init__', 2, 'def __init__(self, config); or override '
                            'initialize(self) instead')):
        code = getattr(getattr(task_cls, name), '__code__', None)
        if code is None or isinstance(_raw(task_cls, name), staticmethod):
            continue
        needed = code.co_argcount - len(getattr(task_cls, name).__defaults__
                                        or ())
        if needed > given or (code.co_argcount < given
                              and not code.co_flags & TAKES_ANY):
            return (f'has a method {name}() with other parameters than it '
                    f'is called with; allowed: {hint}')
        if name == 'task' and code.co_flags & YIELDS:
            return ('has a task() with a yield in it, so that calling it '
                    'would do nothing; return instead')
    return None


def _raw(cls: Any, name: str) -> Any:
    """Return the attribute *name* as the class that has it declares it."""
    return next(vars(each)[name] for each in cls.__mro__ if name in vars(each))


def _find_fault_in_arguments(arguments: Any) -> str | None:
    from jobslib.cmdlineparser import Argument
    if isinstance(arguments, Argument):
        return ('has arguments that are not a tuple; a tuple of one ends with '
                'a comma: arguments = (argument(...),)')
    if not isinstance(arguments, tuple | list):
        return (f'has arguments that are not a tuple but '
                f'{arguments!r:.80}; allowed: a tuple of jobslib.argument(...)')
    for each in arguments:
        # In jobslib 3 an argument was a plain pair.
        pair = (isinstance(each, tuple) and len(each) == 2
                and isinstance(each[1], dict))
        if not (isinstance(each, Argument) or pair):
            return (f'has {each!r:.80} among its arguments; allowed: '
                    f'jobslib.argument(...)')
    return _find_fault_in_parser(arguments) if arguments else None


def _find_fault_in_parser(arguments: Any) -> str | None:
    """Return which argument :mod:`argparse` refuses, if it refuses one."""
    import argparse
    parser = argparse.ArgumentParser(add_help=False)
    for args, kwargs in arguments:
        try:
            parser.add_argument(*args, **kwargs)
        except (argparse.ArgumentError, TypeError, ValueError,
                AttributeError) as exc:
            shown = ', '.join([*map(repr, args), *(
                f'{name}={value!r}' for name, value in kwargs.items())])
            return (f'has an argument that argparse refuses: '
                    f'argument({shown:.80}): {exc}')
    return None


def _find_namesakes(config: Config) -> list[str]:
    """Return the dotted paths of other tasks that have this one's name.

    They share its lock, its history and what operators ask of it.  Only
    classes that are loaded are known.
    """
    import sys

    from jobslib.tasks import BaseTask
    own = config.task_cls
    found = []
    classes = list(BaseTask.__subclasses__())
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        if (own is None or cls is own or cls.task is BaseTask.task
                or not cls.name or cls.name != config.task_name):
            continue
        # A class that its module does not have any more was defined again.
        module = sys.modules.get(cls.__module__)
        if getattr(module, cls.__name__, None) is cls:
            found.append(f'{cls.__module__}.{cls.__qualname__}')
    return sorted(found)
