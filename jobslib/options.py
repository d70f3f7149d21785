"""Options: command line > environment > settings > default.

An :class:`option` declares one value: its type, bounds, default, and the
names under which it is given.  The parser, the checks, the messages and the
reference page are all made from these declarations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from jobslib.environment import forget
from jobslib.exceptions import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import (
        Any,
        Generic,
        Literal,
        Self,
        TypedDict,
        TypeVar,
        Unpack,
        overload,
    )

    T = TypeVar('T', covariant=True)
    R = TypeVar('R')
    G = TypeVar('G', bound='ConfigGroup')

    class Declaration(TypedDict, total=False):
        """What an option can be declared with, whatever its type."""

        minimum: float | None
        maximum: float | None
        above: float | None
        choices: Iterable[object] | None
        flag: str | None
        metavar: str | None
        unit: str
        kind: str
        env: str | None
        setting: str | None
        fallback: Callable[[ConfigGroup], Given | None] | None
        help: str
        secret: bool
else:
    class Generic:
        """A substitute for the class of typing, because at run time no option
        needs to know its type."""

        def __class_getitem__(cls, _: object) -> type:
            return cls

__all__ = ['BOOLEANS', 'ConfigGroup', 'Given', 'option']

BOOLEANS = {'1': True, 'true': True, 'yes': True, 'on': True,
            '0': False, 'false': False, 'no': False, 'off': False}

# Values from these sources have types; those from others are strings.
TYPED_SOURCES = ('settings', 'computed')

TYPE_NAMES: dict[object, str] = {
    bool: '1/0, true/false, yes/no or on/off',
    int: 'an integer',
    float: 'a number',
    str: 'a string',
    dict: 'a dict (in the environment a JSON object)',
    list: 'a list (in the environment a JSON array)',
}


class Given:
    """A raw value and where it came from."""

    def __init__(self, value: Any, source: str) -> None:
        self.value = value
        self.source = source


class option(Generic['T']):
    """One value of a :class:`ConfigGroup`.

    As a declaration (``timeout = option(attrtype=float, default=5.0)``) the
    value is looked up on the command line (*flag*), in the environment
    (*env*), in the settings (*setting*), in *fallback*, and is *default* if
    none of them has it.  As a decorator of a method (``@option``,
    ``@option(required=True, attrtype=str)``) the value is what the method
    returns.  Either way it is checked, and computed once for each container.

    :param required: whether ``None`` is refused.
    :param attrtype: the type of the value, or a :class:`ConfigGroup` that is made
        from the value.  An integer is accepted where a float is asked for.
    :param minimum: the least value allowed.
    :param maximum: the largest value allowed.
    :param above: the value must be larger than this.
    :param choices: the values allowed.
    :param default: the value when nothing else gives one.
    :param flag: option of the command line, ``--like-this``.
    :param metavar: how the command line's help names the value; by default
        the unit, in capitals.
    :param unit: the unit of a number, ``'seconds'`` for instance.
    :param kind: what a string has to be, ``'a dotted path'`` for instance.
    :param env: environment variable.
    :param setting: name in the settings; by default the option's own name,
        in upper case where the settings are a module.
    :param fallback: called with the container when nothing was given,
        before the default counts; returns a :class:`Given` or ``None``.
    :param help: what the option does, one sentence.
    :param secret: never show the value.
    """

    if TYPE_CHECKING:
        @overload
        def __init__(
            self: option[T], function: Callable[[Any], T], *,
            required: bool = False, attrtype: type[T] | None = None,
            default: T | None = None, **declared: Unpack[Declaration],
        ) -> None: ...

        @overload
        def __init__(
            self: option[G], *, attrtype: type[G],
            default: Mapping[str, object],
            required: bool = False, **declared: Unpack[Declaration],
        ) -> None: ...

        @overload
        def __init__(
            self: option[T], *, attrtype: type[T], default: T,
            required: bool = False, **declared: Unpack[Declaration],
        ) -> None: ...

        @overload
        def __init__(
            self: option[T], *, attrtype: type[T], required: Literal[True],
            **declared: Unpack[Declaration],
        ) -> None: ...

        @overload
        def __init__(
            self: option[T | None], *, attrtype: type[T],
            required: bool = False, default: None = None,
            **declared: Unpack[Declaration],
        ) -> None: ...

        @overload
        def __init__(
            self: option[Any], *, required: bool = False, attrtype: None = None,
            default: object = None, **declared: Unpack[Declaration],
        ) -> None: ...

    def __init__(
        self, function: Callable[[object], object] | None = None, *,
        required: bool = False, attrtype: type[Any] | None = None,
        minimum: float | None = None, maximum: float | None = None,
        above: float | None = None, choices: Iterable[object] | None = None,
        default: object = None, flag: str | None = None,
        metavar: str | None = None, unit: str = '', kind: str = '',
        env: str | None = None,
        setting: str | None = None,
        fallback: Callable[[ConfigGroup], Given | None] | None = None,
        help: str = '', secret: bool = False,
    ) -> None:
        self.function = function
        self.required = required
        self.attrtype = attrtype
        self.minimum = minimum
        self.maximum = maximum
        self.above = above
        self.choices = None if choices is None else tuple(choices)
        self.default = default
        self.flag = flag
        self.metavar = metavar or unit.upper() or None
        self.unit = unit or ('seconds' if metavar == 'SECONDS' else '')
        self.kind = kind
        self.env = env
        self.setting = setting
        self.fallback = fallback
        self.help = help
        self.secret = secret
        self.name = ''
        self.__doc__ = help or getattr(function, '__doc__', None)

    def __call__(self, function: Callable[[Any], R]) -> option[R]:
        self.function = function
        self.__doc__ = self.help or function.__doc__
        return self  # type: ignore[return-value]

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:
        @overload
        def __get__(self, group: None, owner: type) -> Self: ...

        @overload
        def __get__(self, group: ConfigGroup, owner: type) -> T: ...

    def __get__(self, group: ConfigGroup | None, owner: type) -> Self | T:
        return self if group is None else self.read(group)

    def read(self, group: ConfigGroup) -> T:
        """Return the value that *group* has, looked up if need be."""
        if self.name not in group._values:
            given = self._find(group)
            group._values[self.name] = self._check(given, group)
            group._sources[self.name] = given.source
        return group._values[self.name]  # type: ignore[no-any-return]

    def under(self, env: str) -> Self:
        """Return this option with the environment variable *env*."""
        named = object.__new__(type(self))
        vars(named).update(vars(self), env=env)
        return named

    #: Whether the flag may be given several times, for a list of values.
    repeatable = False

    @property
    def negative(self) -> str:
        """The flag that switches it off again, if it is a boolean."""
        return f'--no-{(self.flag or self.name).lstrip("-")}'

    @property
    def dest(self) -> str:
        """Name of the flag's attribute among the parsed arguments."""
        return (self.flag or self.name).lstrip('-').replace('-', '_')

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that are read for it."""
        return () if self.env is None else (self.env,)

    def allowed(self) -> str:
        """Return what the option allows, for messages and the reference."""
        if self.choices is not None:
            return 'one of ' + ', '.join(map(str, self.choices))
        text = ('any value' if self.attrtype is None else
                'a dict' if issubclass(self.attrtype, ConfigGroup) else
                TYPE_NAMES.get(self.attrtype, self.attrtype.__name__))
        if self.kind:
            text = f'{self.kind} ({text})'
        if self.unit:
            text = (f'{text} ({self.unit})' if self.attrtype is int else
                    f'{text} of {self.unit}')
        if self.minimum is not None and self.maximum is not None:
            return f'{text} from {_plain(self.minimum)} to {_plain(self.maximum)}'
        if self.minimum is not None:
            return f'{text} of at least {_plain(self.minimum)}'
        if self.above is not None and self.maximum is not None:
            return f'{text} above {_plain(self.above)}, at most {_plain(self.maximum)}'
        if self.above is not None:
            return f'{text} above {_plain(self.above)}'
        if self.maximum is not None:
            return f'{text} of at most {_plain(self.maximum)}'
        return text

    def setting_name(self, settings: Any) -> str:
        """Return the option's name in *settings*."""
        if self.setting is not None:
            return self.setting
        return self.name if isinstance(settings, Mapping) else self.name.upper()

    def _find(self, group: ConfigGroup) -> Given:
        if self.function is not None:
            return Given(self.function(group), 'computed')
        return (self.given(group)
                or (self.fallback and self.fallback(group))
                or Given(self.default, 'default'))

    def given(self, group: ConfigGroup) -> Given | None:
        """Return what was given for the option, leaving aside its fallback and
        its default; ``None`` if nothing was."""
        return (self._from_command_line(group) or self._from_environment()
                or self._from_settings(group))

    def _from_command_line(self, group: ConfigGroup) -> Given | None:
        if self.flag is None:
            return None
        value = getattr(group._args_parser, self.dest, None)
        if value is None:
            return None
        return Given(value, f'command line, {self.flag}')

    def _from_environment(self) -> Given | None:
        # An empty variable counts as not set, as for most programs.
        if self.env is None or not os.environ.get(self.env):
            return None
        return Given(os.environ[self.env], f'environment, {self.env}')

    def _from_settings(self, group: ConfigGroup) -> Given | None:
        settings = group._settings
        name = self.setting_name(settings)
        if isinstance(settings, Mapping):
            value = settings.get(name)
        else:
            value = getattr(settings, name, None)
        if value is None:
            return None
        return Given(value, f'settings, {group._locate(name)}')

    def _check(self, given: Given, group: ConfigGroup) -> object:
        value = given.value
        if value is None:
            if self.required:
                raise ConfigError(f'{self.name}: required, and not given; '
                                  f'allowed: {self.allowed()}')
            return None
        if self.attrtype is not None:
            value = self._convert(given, group)
        if (self.choices and isinstance(value, str)
                and value.lower() in self.choices):
            value = value.lower()
        within = (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.choices is None or value in self.choices))
        if not within:
            raise self.error(given)
        return value

    def _convert(self, given: Given, group: ConfigGroup) -> object:
        attrtype: Any = self.attrtype
        value = given.value
        if isinstance(attrtype, type) and issubclass(attrtype, ConfigGroup):
            return self._nest(given, group, attrtype)
        if (isinstance(value, str)
                and not given.source.startswith(TYPED_SOURCES)):
            try:
                value = _parse(value, attrtype)
            except (ValueError, RecursionError) as exc:
                detail = str(exc) if attrtype in (dict, list) else ''
                raise self.error(given, detail) from None
        if attrtype is float and type(value) is int:
            try:
                value = float(value)
            except OverflowError:
                raise self.error(given) from None
        if isinstance(value, bool) and attrtype in (int, float):
            raise self.error(given)
        if not isinstance(value, attrtype):
            raise self.error(given)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(given)
        return value

    def _nest(self, given: Given, group: ConfigGroup,
              attrtype: type[ConfigGroup]) -> ConfigGroup:
        if isinstance(given.value, ConfigGroup):
            return given.value
        if not isinstance(given.value, Mapping):
            raise self.error(given)
        return attrtype(given.value, group._args_parser,
                        location=group._locate(
                            self.setting_name(group._settings)))

    def error(self, given: Given, detail: str = '') -> ConfigError:
        """Return the error that says why *given* is refused."""
        detail = f' ({detail})' if detail else ''
        allowed = self.allowed()
        if self.attrtype is bool and given.source.startswith(TYPED_SOURCES):
            allowed = 'True or False'
        shown = self.show(given.value)
        if (self.attrtype in (dict, list) and not self.repeatable
                and given.source.startswith('env')):
            # Not shown, because the JSON may have a secret in it; what can be
            # repeated on the command line has none.
            shown = '***'
        return ConfigError(f'{self.setting or self.name}: {shown} from '
                           f'{given.source} is not allowed{detail}; allowed: '
                           f'{allowed}')

    def show(self, value: object) -> str:
        """Return *value* for a message, with no secret in it."""
        from jobslib.masking import MASK, mask, shown
        if self.secret:
            return MASK
        return shown(mask(value) if isinstance(value, str | dict | list)
                     else value)


def _parse(text: str, attrtype: object) -> object:
    """Read a value of *attrtype* from *text*.

    :raises ValueError: it is not one.
    """
    if attrtype is bool:
        if text.strip().lower() not in BOOLEANS:
            raise ValueError('not a boolean')
        return BOOLEANS[text.strip().lower()]
    if attrtype in (int, float):
        return attrtype(text)
    if attrtype in (dict, list):
        import json
        return json.loads(text)
    return text


class ConfigGroup:
    """A container of options.

    :param settings: the settings: a module, any object with attributes, a
        dict, or ``None``.
    :param args_parser: the parsed command line; an attribute that it lacks
        counts as not given.
    :param location: where the settings stand, for messages.
    :raises ConfigError: a value is refused.
    """

    def __init__(self, settings: Any, args_parser: Any, *,
                 location: str = '') -> None:
        self._settings = settings
        self._args_parser = args_parser
        self._location = location
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._refuse_unknown()
        self._initialize()
        for declared in self.declared().values():
            declared.read(self)
        self.validate()

    @classmethod
    def declared(cls) -> Mapping[str, option[object]]:
        """Return all options by name, inherited ones first."""
        return _find_options(cls.__mro__)

    def validate(self) -> None:
        """Check the options against each other; to be overridden.

        :raises ConfigError: they contradict each other.
        """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Prepare what methods that are options need; to be overridden.

        Called before the options are read, with the settings and the parsed
        command line; in a :class:`jobslib.Config` it is called without arguments.
        """

    def _initialize(self) -> None:
        self.initialize(self._settings, self._args_parser)

    @property
    def as_kwargs(self) -> dict[str, Any]:
        """All options by name."""
        return {name: getattr(self, name) for name in self.declared()}

    def export(self) -> dict[str, Any]:
        """Return the values, and where they came from, as JSON takes them.

        A value that JSON cannot hold is left out; when the group is restored, it
        is computed again from the others.
        """
        values: dict[str, object] = {}
        groups: dict[str, object] = {}
        for name in self.declared():
            value = self.raw_value(name)
            if isinstance(value, ConfigGroup):
                groups[name] = value.export()
            elif _fits_json(value):
                values[name] = value
        return {'values': values, 'groups': groups, 'sources': self._sources}

    @classmethod
    def restore(cls, exported: dict[str, Any]) -> Self:
        """Return the group that another process has exported."""
        group = cls.__new__(cls)
        group._settings = group._args_parser = None
        group._location = ''
        group._values = dict(exported['values'])
        group._sources = dict(exported['sources'])
        for name, nested in exported['groups'].items():
            group._values[name] = group._restore_group(name, nested)
        # Called because it may compute attributes and keep them.
        group.validate()
        return group

    def _restore_group(self, name: str, exported: dict[str, object]) -> object:
        declared = self.declared()[name]
        assert declared.attrtype is not None
        return declared.attrtype.restore(exported)

    def raw_value(self, name: str) -> Any:
        """Return the value of the option *name* as it was given, which for an
        option that names a class is the dotted path."""
        return self.declared()[name].read(self)

    def source(self, name: str) -> str:
        """Return where the value of the option *name* came from."""
        return self._sources[name]

    def hide_secrets(self) -> None:
        """Take the variables that secrets came from out of the environment.

        Otherwise all processes that are started from here would inherit them.
        """
        for name, declared in self.declared().items():
            value = self.raw_value(name)
            if isinstance(value, ConfigGroup):
                value.hide_secrets()
            elif declared.secret:
                kind, _, variable = self._sources[name].partition(', ')
                if kind == 'environment':
                    forget(variable)

    def error(self, name: str, detail: str) -> ConfigError:
        """Return an error about the value of the option *name*."""
        shown = self.declared()[name].show(self.raw_value(name))
        return ConfigError(
            f'{name}: {shown} from {self._sources[name]}: {detail}')

    def _locate(self, name: str) -> str:
        return f'{self._location}[{name!r}]' if self._location else name

    def _reads_itself(self) -> bool:
        """Return whether methods of a user's class may read names of the settings
        that are not options."""
        return any(
            declared.function is not None
            and not declared.function.__module__.startswith('jobslib.')
            for declared in self.declared().values())

    def _refuse_unknown(self) -> None:
        if not isinstance(self._settings, Mapping) or self._reads_itself():
            return
        known = {declared.setting_name(self._settings)
                 for declared in self.declared().values()}
        for name in self._settings:
            if name not in known:
                from jobslib.slips import nearest
                near = nearest(str(name), known)
                hint = f', nearest known: {near!r}' if near else ''
                raise ConfigError(
                    f'unknown option {name!r} in settings'
                    f'{", " + self._location if self._location else ""}{hint}; '
                    f'allowed: {", ".join(sorted(known)) or "none"}')


@cache
def _find_options(classes: tuple[type, ...]) -> Mapping[str, option[object]]:
    """Return the options of a class, which are asked for hundreds of times.

    :param classes: it and its bases, as Python looks through them.
    """
    options: dict[str, option[object]] = {}
    for base in reversed(classes):
        for name, value in vars(base).items():
            if isinstance(value, option):
                options[name] = value
            elif name in options:
                del options[name]
    return options


def _fits_json(value: object) -> bool:
    import json
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _plain(number: float) -> str:
    """Return *number* as people write it, a million without an exponent."""
    return f'{number:g}' if abs(number) < 1e6 else f'{number:.0f}'
