"""The configuration of a job, made of options."""

from __future__ import annotations

from jobslib.exceptions import ConfigError, ImportNameError
from jobslib.imports import import_object
from jobslib.options import ConfigGroup, Given, option
from jobslib.scheduleoptions import ScheduleOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['BackendConfig', 'Config', 'ConfigGroup', 'Given', 'LivenessConfig',
           'MetricsConfig', 'OneInstanceConfig', 'option']


#: The classes of jobslib that settings can name, to guess which one is meant.
CLASSES = {path.rpartition('.')[2]: path for path in (
    'jobslib.oneinstance.file.FileLock',
    'jobslib.oneinstance.consul.ConsulLock',
    'jobslib.oneinstance.dummy.DummyLock',
    'jobslib.liveness.consul.ConsulLiveness',
    'jobslib.liveness.consul_check.ConsulCheckLiveness',
    'jobslib.liveness.dummy.DummyLiveness',
    'jobslib.metrics.prometheus.PrometheusMetrics',
    'jobslib.metrics.influxdb.InfluxDBMetrics',
    'jobslib.metrics.dummy.DummyMetrics',
    'jobslib.config.Config', 'jobslib.context.Context')}


def __getattr__(name: str) -> Any:
    if name == 'RetryConfigMixin':
        # It is not an AttributeError, because Python would replace its message.
        raise ImportError(
            'jobslib.config.RetryConfigMixin is gone since jobslib 4; declare '
            'what you need of it: retry_max_attempts = jobslib.option('
            'attrtype=int, default=3)')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


class class_option(option['object']):
    """An option that names a class by its dotted path, read as that class.

    It is imported when it is read, not when the configuration is made;
    :meth:`ConfigGroup.raw_value` returns the path.
    """

    def __get__(self, group: Any, owner: type) -> Any:
        if group is None or self.read(group) is None:
            return super().__get__(group, owner)
        return group.find_class()


class BackendConfig(ConfigGroup):
    """A class named by its dotted path, and its options."""

    #: What the class must be, and the name of its setting, for messages.
    kind = ''
    setting = ''
    #: A method that each class of this kind has.
    method = ''

    backend: object
    raw_options: Any

    @option
    def options(self) -> Any:
        """The options of the backend, an instance of its ``OptionsConfig``."""
        if self.raw_value('backend') is None:
            if self.raw_options:
                raise ConfigError(
                    f"options of {self._location or self.setting} are given, "
                    f"and no 'backend' that they are for")
            return ConfigGroup({}, self._args_parser)
        if self.source('backend') == 'default':
            self._refuse_options_of_others()
        return self.backend_class.OptionsConfig(
            self._options_of_backend(), self._args_parser,
            location=f"{self._location or self.setting}['options']")

    def _refuse_options_of_others(self) -> None:
        """Refuse options that are not even nearly those of the default backend,
        since another backend must be meant, and is not named."""
        known = {declared.setting_name({}) for declared
                 in self.backend_class.OptionsConfig.declared().values()}
        for name in self._options_of_backend():
            if name in known:
                continue
            from jobslib.slips import nearest
            if nearest(str(name), known) is None:
                raise ConfigError(
                    f"option {name!r} is given in "
                    f"{self._location or self.setting}, and no 'backend' that "
                    f"has it; the default one, {self.backend_class.__name__}, "
                    f"has: {', '.join(sorted(known))}")

    @property
    def backend_class(self) -> Any:
        """The class of the backend."""
        found = import_class(
            self, 'backend', self.kind, 'OptionsConfig', self.method)
        base = self.kind.rpartition(' ')[2]
        if (found.__qualname__ == base
                and found.__module__.startswith('jobslib.')):
            raise self.error('backend', f'it is the base of all others; '
                                        f'allowed: a subclass of {base}')
        return found

    def _restore_group(self, name: str, exported: dict[str, object]) -> object:
        # The class depends on the backend, whose value is restored by now.
        if self.raw_value('backend') is None:
            return ConfigGroup.restore(exported)
        return self.backend_class.OptionsConfig.restore(exported)

    def find_class(self) -> object:
        """Return the class that ``backend`` is."""
        return self.backend_class

    def _options_of_backend(self) -> dict[str, object]:
        # Options in the settings belong to the backend that the settings name.  A
        # backend that is named elsewhere would not know them.
        named = (self._settings or {}).get('backend')
        if named and named != self.raw_value('backend'):
            return {}
        return dict(self.raw_options)


class OneInstanceConfig(BackendConfig):
    """Which lock is used, and its options (``ONE_INSTANCE``)."""

    kind = 'a BaseLock'
    method = 'acquire'
    setting = 'ONE_INSTANCE'

    backend = class_option(
        attrtype=str, default='jobslib.oneinstance.file.FileLock',
        env='JOBSLIB_ONE_INSTANCE_BACKEND', metavar='PATH', kind='a dotted path',
        help='Dotted path of the lock, a subclass of BaseLock.')
    disabled = option(
        attrtype=bool, default=False, flag='--disable-one-instance',
        setting='disabled',
        help='Run without a lock, whatever the settings say.')
    raw_options = option(
        attrtype=dict, setting='options', default={}, secret=True,
        help='The options of the lock, by name; see the lock.')

    @property
    def backend_class(self) -> Any:
        """The class of the lock."""
        if self.disabled:
            return import_object('jobslib.oneinstance.dummy.DummyLock')
        return super().backend_class

    def _options_of_backend(self) -> dict[str, object]:
        return {} if self.disabled else super()._options_of_backend()


class LivenessConfig(BackendConfig):
    """Where successful runs are noted, and its options (``LIVENESS``)."""

    kind = 'a BaseLiveness'
    method = 'make_observer'
    setting = 'LIVENESS'

    backend = class_option(
        attrtype=str, env='JOBSLIB_LIVENESS_BACKEND', metavar='PATH',
        kind='a dotted path',
        help='Dotted path of the liveness, a subclass of BaseLiveness '
             '(default: none).')
    raw_options = option(
        attrtype=dict, setting='options', default={}, secret=True,
        help='The options of the liveness, by name.')


class MetricsConfig(BackendConfig):
    """Where metrics go, and its options (``METRICS``)."""

    kind = 'a BaseMetrics'
    method = 'push'
    setting = 'METRICS'

    backend = class_option(
        attrtype=str, env='JOBSLIB_METRICS_BACKEND', metavar='PATH',
        kind='a dotted path',
        help='Dotted path of the metrics, a subclass of BaseMetrics '
             '(default: none).')
    raw_options = option(
        attrtype=dict, setting='options', default={}, secret=True,
        help='The options of the metrics, by name.')


class Config(ScheduleOptions):
    """The configuration of one job; subclass it to add options.

    :param settings: settings module, any object with attributes, or ``None``.
    :param args_parser: the parsed command line.
    :param task_cls: the task class that is run; ``None`` for a command that
        needs none.
    """

    config_class = option(
        attrtype=str, default='jobslib.config.Config',
        env='JOBSLIB_CONFIG_CLASS', metavar='PATH', kind='a dotted path',
        help='Dotted path of the subclass of Config to use.')
    context_class = class_option(
        attrtype=str, default='jobslib.context.Context',
        env='JOBSLIB_CONTEXT_CLASS', metavar='PATH', kind='a dotted path',
        help='Dotted path of the subclass of Context to use.')
    run_once = option(
        attrtype=bool, default=False, flag='--run-once',
        env='JOBSLIB_RUN_ONCE',
        help='Run the task once and exit with its outcome.')
    keep_lock = option(
        attrtype=bool, default=False, flag='--keep-lock',
        env='JOBSLIB_KEEP_LOCK',
        help='Keep the lock between runs; who does not get it waits as a hot standby.')
    release_on_error = option(
        attrtype=bool, default=False, flag='--release-on-error',
        env='JOBSLIB_RELEASE_ON_ERROR',
        help='With --keep-lock, give up the lock after a failed run.')
    max_run_time = option(
        attrtype=float, above=0, flag='--max-run-time',
        metavar='SECONDS', env='JOBSLIB_MAX_RUN_TIME',
        help='Stop a run that takes longer.')
    max_hook_time = option(
        attrtype=float, above=0, default=60.0,
        env='JOBSLIB_MAX_HOOK_TIME', metavar='SECONDS',
        help='Stop a hook of the task that takes longer while the lock is held.')
    cold_standby = option(
        attrtype=bool, default=False, flag='--cold-standby',
        env='JOBSLIB_COLD_STANDBY',
        help='Start the process of the task when the lock is taken, not '
             'before: a standby needs less memory, and takes over later.')
    logging = option(
        attrtype=dict, env='JOBSLIB_LOGGING', metavar='JSON',
        help='Logging, as logging.config.dictConfig takes it.')
    log_format = option(
        attrtype=str, choices=('text', 'json'), default='text',
        env='JOBSLIB_LOG_FORMAT', metavar='FORMAT',
        help='How lines of the log are written; not used when LOGGING is '
             'set.')
    log_level = option(
        attrtype=str, choices=('debug', 'info', 'warning', 'error',
                               'critical'),
        default='info', flag='--log-level', env='JOBSLIB_LOG_LEVEL',
        metavar='LEVEL',
        help='The lowest level that is logged; -v is --log-level debug; not '
             'used when LOGGING is set.')
    history = option(
        attrtype=int, minimum=0, maximum=1000, default=100,
        env='JOBSLIB_HISTORY', metavar='RUNS', unit='runs',
        help='How many of the newest runs are kept beside the lock, 0 for '
             'none.')
    one_instance = option(
        attrtype=OneInstanceConfig, default={},
        help='The lock, a dict of backend and options.')
    liveness = option(
        attrtype=LivenessConfig, default={},
        help='Where successful runs are noted, a dict of backend and options.')
    metrics = option(
        attrtype=MetricsConfig, default={},
        help='Where metrics go, a dict of backend and options.')

    def __init__(self, settings: object, args_parser: object,
                 task_cls: type[Any] | None) -> None:
        self.task_cls = task_cls
        try:
            super().__init__(settings, args_parser)
        except ConfigError:
            raise
        except Exception as exc:
            cls = type(self)
            raise ConfigError(
                f'{cls.__module__}.{cls.__qualname__} cannot be made of the '
                f'settings, see above') from exc

    #: In the run's process: the connection to its supervisor.
    link: object = None

    @property
    def args(self) -> Any:
        """The parsed command line, the task's own arguments included."""
        return self._args_parser

    @property
    def task_class(self) -> type[Any] | None:
        """The task class, by the name that this attribute had in jobslib 3."""
        return self.task_cls

    @property
    def task_name(self) -> str:
        """The task's ``name``, which also names its lock.

        :raises ConfigError: there is no task.
        """
        task_cls = self.task_cls
        if task_cls is None:
            raise ConfigError('no task is named, and this needs one')
        return task_cls.name or f'{task_cls.__module__}.{task_cls.__qualname__}'

    def make_context(self) -> Any:
        """Return a new instance of the class named by ``context_class``."""
        return self.context_class.from_config(self)

    def find_class(self) -> Any:
        """Return the class that ``context_class`` is."""
        return import_class(self, 'context_class', 'a Context', 'from_config')

    def _initialize(self) -> None:
        self.initialize()


def _guess_class(path: str, said: str) -> str:
    """Return which class of jobslib may be meant, unless *said* says it already."""
    if 'did you mean' in said:
        return ''
    from jobslib.slips import nearest
    near = nearest(path.rpartition('.')[2], CLASSES)
    return f' (did you mean {CLASSES[near]!r}?)' if near else ''


def import_class(group: ConfigGroup, name: str, kind: str,
                 *attributes: str) -> Any:
    """Return the class whose dotted path is the option *name* of *group*.

    :param attributes: what a class of that *kind* has.
    :raises ConfigError: there is no such class.
    """
    try:
        found = import_object(group.raw_value(name))
    except ImportNameError as exc:
        raise group.error(
            name, f'{exc}{_guess_class(str(group.raw_value(name)), str(exc))}; '
                  f'allowed: the dotted path of {kind}') from None
    except (Exception, SystemExit) as exc:
        raise group.error(name, 'it cannot be imported, see above') from exc
    if not isinstance(found, type) or not all(
            hasattr(found, each) for each in attributes):
        raise group.error(
            name, f'it is not {kind}; allowed: the dotted path of {kind}')
    return found
