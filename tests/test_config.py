"""Options: where they come from, what they allow, how they are refused."""

import datetime
import math
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from support import PlainTask

from jobslib import Config, ConfigGroup, option
from jobslib.cmdlineparser import build_parser
from jobslib.config import Given, OneInstanceConfig
from jobslib.exceptions import ConfigError
from jobslib.oneinstance.consuloptions import ConsulOptions
from jobslib.schedule.plans import CatchUp
from jobslib.schedule.rhythms import Grid, Pause

FILE_LOCK = 'jobslib.oneinstance.file.FileLock'
DUMMY_LOCK = 'jobslib.oneinstance.dummy.DummyLock'


def make(args: dict[str, Any] | None = None, /, **settings: Any) -> Config:
    """Return the configuration that *args* and *settings* give."""
    return Config(SimpleNamespace(**settings), SimpleNamespace(**(args or {})),
                  PlainTask)


def refusal(call: Callable[[], Any]) -> str:
    """Return the message of the error that *call* raises."""
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert '\n' not in message
    return message


class Case(NamedTuple):
    """An option with a value from each source, and what it becomes."""

    name: str
    command_line: Any
    environment: str
    setting: Any
    default: Any
    expected: tuple[Any, Any, Any]


CASES = [
    Case('run_once', True, '0', True, False, (True, False, True)),
    Case('sleep_interval', '1.5', '2.5', 3.5, None, (1.5, 2.5, 3.5)),
    Case('run_interval', '1', '2', 3, None, (1.0, 2.0, 3.0)),
    Case('keep_lock', True, 'no', True, False, (True, False, True)),
    Case('release_on_error', True, 'off', True, False, (True, False, True)),
    Case('max_run_time', '0.5', '1e3', 7, None, (0.5, 1000.0, 7.0)),
]
NOT_ON_THE_COMMAND_LINE = [
    Case('config_class', None, 'a.B', 'c.D', 'jobslib.config.Config',
         (None, 'a.B', 'c.D')),
    Case('context_class', None, 'a.B', 'c.D', 'jobslib.context.Context',
         (None, 'a.B', 'c.D')),
    Case('logging', None, '{"version": 1}', {'version': 2}, None,
         (None, {'version': 1}, {'version': 2})),
]
ALL = pytest.mark.parametrize(
    'case', CASES + NOT_ON_THE_COMMAND_LINE, ids=lambda case: case.name)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_command_line_wins(case: Case,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins over environment and settings."""
    monkeypatch.setenv(f'JOBSLIB_{case.name.upper()}', case.environment)
    config = make({case.name: case.command_line},
                  **{case.name.upper(): case.setting})
    value = config.raw_value(case.name)
    assert value == case.expected[0]
    assert type(value) is type(case.expected[0])
    flag = '--' + case.name.replace('_', '-')
    assert config.source(case.name) == f'command line, {flag}'


@ALL
def test_environment_wins_over_settings(
        case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over the settings."""
    variable = f'JOBSLIB_{case.name.upper()}'
    monkeypatch.setenv(variable, case.environment)
    config = make(**{case.name.upper(): case.setting})
    value = config.raw_value(case.name)
    assert value == case.expected[1]
    assert type(value) is type(case.expected[1])
    assert config.source(case.name) == f'environment, {variable}'


@ALL
def test_settings_win_over_default(case: Case) -> None:
    """The settings win over the default."""
    config = make({case.name: None}, **{case.name.upper(): case.setting})
    value = config.raw_value(case.name)
    assert value == case.expected[2]
    assert type(value) is type(case.expected[2])
    assert config.source(case.name) == f'settings, {case.name.upper()}'


@ALL
def test_default(case: Case) -> None:
    """What nothing gives is the default; None in the settings is nothing."""
    config = make(**{case.name.upper(): None})
    assert config.raw_value(case.name) == case.default
    assert config.source(case.name) == 'default'


@pytest.mark.parametrize('settings', [None, object()])
@pytest.mark.parametrize('args', [None, SimpleNamespace(), object()])
def test_nothing_given(settings: Any, args: Any) -> None:
    """Without settings, and with arguments that lack all, all is default."""
    config = Config(settings, args, PlainTask)
    assert config.sleep_interval is None
    assert config.run_once is False
    assert config.one_instance.raw_value('backend') == FILE_LOCK
    assert config.args is args


def test_settings_of_any_kind() -> None:
    """Settings can be any object with attributes, a class for example."""
    class Settings:
        RUN_INTERVAL = 60.0

    assert Config(Settings, None, PlainTask).run_interval == 60


INTERVALS = [('sleep_interval', 'a number of seconds of at least 0'),
             ('run_interval', 'a number of seconds of at least 0'),
             ('max_run_time', 'a number of seconds above 0')]
FLAGS = ['run_once', 'keep_lock', 'release_on_error']
NO_NUMBERS = ['', 'abc', '1,5', '5s', '-1', 'nan', 'inf', '-inf', '1e999']


@pytest.mark.parametrize('value', NO_NUMBERS)
@pytest.mark.parametrize(('name', 'allowed'), INTERVALS)
def test_bad_number_on_the_command_line(name: str, allowed: str,
                                        value: str) -> None:
    """A bad number is refused with its flag, and with what is allowed."""
    flag = '--' + name.replace('_', '-')
    assert refusal(lambda: make({name: value})) == (
        f'{name}: {value!r} from command line, {flag} is not allowed; '
        f'allowed: {allowed}')


@pytest.mark.parametrize('value', NO_NUMBERS[1:])
@pytest.mark.parametrize(('name', 'allowed'), INTERVALS)
def test_bad_number_in_the_environment(
        name: str, allowed: str, value: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad number is refused with its variable, and what is allowed."""
    variable = f'JOBSLIB_{name.upper()}'
    monkeypatch.setenv(variable, value)
    assert refusal(make) == (
        f'{name}: {value!r} from environment, {variable} is not allowed; '
        f'allowed: {allowed}')


def test_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty environment variable counts as not set."""
    monkeypatch.setenv('JOBSLIB_SLEEP_INTERVAL', '')
    monkeypatch.setenv('JOBSLIB_RUN_ONCE', '')
    assert make().sleep_interval is None
    assert make().run_once is False


@pytest.mark.parametrize('value', [
    '5', '', -1, -0.5, math.nan, math.inf, -math.inf, True, False, [], {},
    10 ** 400], ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize(('name', 'allowed'), INTERVALS)
def test_bad_number_in_the_settings(name: str, allowed: str,
                                    value: Any) -> None:
    """A number is not a text and not a boolean; it is refused by name."""
    setting = name.upper()
    assert refusal(lambda: make(**{setting: value})) == (
        f'{name}: {value!r} from settings, {setting} is not allowed; '
        f'allowed: {allowed}')


def test_run_of_no_time() -> None:
    """A run may not be limited to zero seconds."""
    assert refusal(lambda: make({'max_run_time': '0'})).endswith(
        'is not allowed; allowed: a number of seconds above 0')


@pytest.mark.parametrize('name', ['sleep_interval', 'run_interval'])
def test_zero_is_no_interval(name: str) -> None:
    """An interval of zero seconds is allowed: there is none."""
    value = getattr(make({name: '0'}), name)
    assert value == 0
    assert not make({name: '0'}).make_plan('x').has_slots


@pytest.mark.parametrize('value', ['maybe', '2', 'None', 'y'])
@pytest.mark.parametrize('name', FLAGS)
def test_bad_boolean_in_the_environment(
        name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no boolean is refused, with those that are."""
    variable = f'JOBSLIB_{name.upper()}'
    monkeypatch.setenv(variable, value)
    assert refusal(make) == (
        f'{name}: {value!r} from environment, {variable} is not allowed; '
        f'allowed: 1/0, true/false, yes/no or on/off')


@pytest.mark.parametrize(('text', 'value'), [
    ('1', True), ('true', True), ('yes', True), ('on', True),
    ('0', False), ('false', False), ('no', False), ('off', False),
    ('TRUE', True), ('Off', False), (' yes ', True)])
def test_booleans_in_the_environment(
        text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Booleans are 1/0, true/false, yes/no, on/off, in either case."""
    monkeypatch.setenv('JOBSLIB_RUN_ONCE', text)
    assert make(RUN_ONCE=not value).run_once is value


@pytest.mark.parametrize('value', ['yes', 1, 0, 'true', 1.0])
def test_bad_boolean_in_the_settings(value: Any) -> None:
    """In the settings a boolean is True or False, no number and no text."""
    assert refusal(lambda: make(KEEP_LOCK=value)) == (
        f'keep_lock: {value!r} from settings, KEEP_LOCK is not allowed; '
        'allowed: True or False')


@pytest.mark.parametrize('name', ['config_class', 'context_class'])
def test_bad_text_in_the_settings(name: str) -> None:
    """A dotted path that is no text is refused."""
    setting = name.upper()
    assert refusal(lambda: make(**{setting: 5})) == (
        f'{name}: 5 from settings, {setting} is not allowed; '
        f'allowed: a dotted path (a string)')


@pytest.mark.parametrize(('value', 'detail'), [
    ('{', 'Expecting property name enclosed in double quotes: '
          'line 1 column 2 (char 1)'),
    (' ', 'Expecting value: line 1 column 2 (char 1)')])
def test_bad_json_in_the_environment(
        value: str, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad JSON is refused with the place of the mistake."""
    monkeypatch.setenv('JOBSLIB_LOGGING', value)
    assert refusal(make) == (
        f'logging: *** from environment, JOBSLIB_LOGGING is not '
        f'allowed ({detail}); allowed: a dict (in the environment a JSON '
        f'object)')


def test_json_nested_too_deeply(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON that Python cannot read is bad JSON."""
    monkeypatch.setenv('JOBSLIB_LOGGING', 60_000 * '[')
    assert refusal(make).startswith(
        'logging: *** from environment, JOBSLIB_LOGGING is not allowed '
        '(maximum recursion depth exceeded')


@pytest.mark.parametrize('value', ['[]', '1', '"x"', 'null', 'true'])
def test_other_json_in_the_environment(
        value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON that is no object is refused as logging."""
    monkeypatch.setenv('JOBSLIB_LOGGING', value)
    assert refusal(make) == (
        'logging: *** from environment, JOBSLIB_LOGGING is not '
        'allowed; allowed: a dict (in the environment a JSON object)')


@pytest.mark.parametrize('value', [
    5, {'password': 'hunter2', 'level': 5}, 'http://ann:hunter2@there/x'])
def test_no_secret_in_an_error(value: Any) -> None:
    """An error shows what is wrong, and no password in it."""
    class Group(ConfigGroup):
        level = option(attrtype=int, maximum=4)

    message = refusal(lambda: Group({'level': value}, None))
    assert 'hunter2' not in message
    assert ('5' if not isinstance(value, str) else 'there/x') in message


def test_host_with_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host is a name or an address alone; a login in it is not shown."""
    for host in ('http://ann:hunter2@there', 'there/x', 'ann@there'):
        message = refusal(lambda: ConsulOptions({'host': host}, None))
        assert message.startswith('host: ') and 'hunter2' not in message
    monkeypatch.setenv('CONSUL_HTTP_ADDR', 'http://ann:hunter2@there:x/')
    message = refusal(lambda: ConsulOptions({}, None))
    assert '***@there:x' in message and 'hunter2' not in message


@pytest.mark.parametrize(('setting', 'path'), [
    ('ONE_INSTANCE', 'jobslib.liveness.dummy.DummyLiveness'),
    ('LIVENESS', 'jobslib.metrics.dummy.DummyMetrics'),
    ('METRICS', 'jobslib.oneinstance.dummy.DummyLock')])
def test_backend_of_another_kind(setting: str, path: str) -> None:
    """A class that is no such backend is refused, whatever else it is."""
    message = refusal(lambda: make(**{setting: {'backend': path}}))
    assert f"{setting}['backend']: it is not a Base" in message


@pytest.mark.parametrize('setting', ['LIVENESS', 'METRICS'])
def test_options_without_a_backend(setting: str) -> None:
    """Options that are for nobody are refused."""
    message = refusal(lambda: make(**{setting: {'options': {'x': 1}}}))
    assert message.startswith(f'options of {setting} are given, and no')


def test_both_intervals() -> None:
    """Both kinds of interval are refused, if one source has them."""
    message = refusal(lambda: make(SLEEP_INTERVAL=1.5, RUN_INTERVAL=2))
    assert message == (
        'sleep_interval (1.5 from settings, SLEEP_INTERVAL) and '
        'run_interval (2 from settings, RUN_INTERVAL) exclude each other; '
        'give one of them')
    message = refusal(lambda: make({'run_interval': '3',
                                    'schedule': ['@daily']}))
    assert "schedule (['@daily'] from command line, --schedule)" in message


def test_one_source_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """What wins over another source wins over all that it says of when the
    job is due."""
    monkeypatch.setenv('JOBSLIB_SLEEP_INTERVAL', '1.5')
    config = make(RUN_INTERVAL=2, SCHEDULE='@daily')
    assert (config.sleep_interval, config.run_interval, config.schedule) == (
        1.5, None, None)
    config = make({'schedule': ['@daily']}, RUN_INTERVAL=2)
    assert (config.sleep_interval, config.run_interval, config.schedule) == (
        None, None, ['@daily'])


def test_intervals_of_zero_and_more() -> None:
    """An interval of zero seconds excludes no other."""
    assert make(SLEEP_INTERVAL=0, RUN_INTERVAL=2).run_interval == 2
    assert make(SLEEP_INTERVAL=2, RUN_INTERVAL=0).sleep_interval == 2


@pytest.mark.parametrize(('value', 'expected'), [
    ('@daily', ['@daily']), ('["@daily", "5 4 * * *"]', ['@daily', '5 4 * * *'])])
def test_schedule_in_the_environment(
        value: str, expected: list[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has one expression, or a JSON array."""
    monkeypatch.setenv('JOBSLIB_SCHEDULE', value)
    assert make().schedule == expected


@pytest.mark.parametrize(('settings', 'expected'), [
    ({'SCHEDULE': '61 2 * * *'},
     "schedule: '61 2 * * *' from settings, SCHEDULE: the minute '61' is "
     "wrong; allowed: 0-59, *, lists (1,3), ranges (1-5) and steps (*/5)"),
    ({'SCHEDULE': ['@daily', '1 2']},
     "schedule: '1 2' from settings, SCHEDULE: it has 2 fields instead"),
    ({'SCHEDULE': 5}, 'schedule: 5 from settings, SCHEDULE is not allowed; '
                      'allowed: a cron expression, or a list of them'),
    ({'SCHEDULE': []}, 'schedule: [] from settings'),
    ({'SCHEDULE': ['@daily', 5]}, "schedule: ['@daily', 5] from settings"),
    ({'SCHEDULE': '@daily', 'TIME_ZONE': 'Europe/Praha'},
     "time_zone: 'Europe/Praha' from settings, TIME_ZONE: there is no such "
     "time zone, nearest known: Europe/Prague;"),
    ({'CATCH_UP': 'some'}, 'one of none, latest, all'),
    ({'RUN_INTERVAL': 60, 'RUN_INTERVAL_EPOCH': 'noon'},
     "run_interval_epoch: 'noon' from settings, RUN_INTERVAL_EPOCH: it cannot be "
     "read; allowed: a time in ISO 8601, as 2026-01-01T00:00:00 or"),
    ({'RUN_INTERVAL': 60, 'RUN_INTERVAL_EPOCH': 5},
     'allowed: a time in ISO 8601 (a string)'),
    ({'RUN_INTERVAL': 60, 'RUN_INTERVAL_EPOCH': '2026-01-01', 'TIME_ZONE': 'x'},
     "time_zone: 'x' from settings, TIME_ZONE: there is no such time zone"),
    ({'SCHEDULE': '@daily', 'RUN_INTERVAL_EPOCH': '2026-01-01'},
     "run_interval_epoch: '2026-01-01' from settings, RUN_INTERVAL_EPOCH: there "
     "is no run_interval whose grid it could be of"),
    ({'RUN_INTERVAL': 0, 'RUN_INTERVAL_EPOCH': '2026-01-01'},
     'there is no run_interval'),
])
def test_wrong_schedule(settings: dict[str, Any], expected: str) -> None:
    """A wrong schedule is refused: what, where from, what is wrong with it."""
    assert expected in refusal(lambda: make(**settings))


def test_plan() -> None:
    """The options make a plan."""
    plan = make(SCHEDULE='30 2 * * *', TIME_ZONE='Europe/Prague', JITTER=600,
                CATCH_UP='all', START_DEADLINE=5, RETRIES=2, RETRY_DELAY=7,
                RECOVERIES=0).make_plan('nightly')
    assert plan.rhythm.words() == 'At 02:30 every day (Europe/Prague)'
    assert plan.jitter == 98.981
    assert plan.catch_up is CatchUp.ALL
    assert (plan.start_deadline, plan.retries, plan.retry_delay,
            plan.recoveries) == (5, 2, 7, 0)
    assert make(RUN_INTERVAL=60).make_plan('x').rhythm.words() == 'every 60 s'
    assert make(SLEEP_INTERVAL=60).make_plan('x').rhythm.words() == (
        '60 s after the end of each run')
    assert not make(SLEEP_INTERVAL=0).make_plan('x').has_slots


@pytest.mark.parametrize(('epoch', 'zone', 'slot'), [
    ('2026-01-01', 'UTC', '2026-03-01T00:00:00+00:00'),
    ('2026-01-01', 'Asia/Kathmandu', '2026-02-28T18:15:00+00:00'),
    ('2026-01-01T00:00+01:00', 'Asia/Kathmandu', '2026-02-28T23:00:00+00:00'),
    ('2036-01-01T07:00:00.5Z', 'UTC', '2026-03-01T07:00:00.500000+00:00')])
def test_epoch(epoch: str, zone: str, slot: str) -> None:
    """The epoch is a slot of the grid, in the time zone if it names none."""
    rhythm = make(RUN_INTERVAL=86400, RUN_INTERVAL_EPOCH=epoch,
                  TIME_ZONE=zone).make_plan('x').rhythm
    assert isinstance(rhythm, Grid)
    wanted = datetime.datetime.fromisoformat(slot).timestamp()
    assert rhythm.after(wanted - 1) == wanted
    assert rhythm.after(wanted) == wanted + 86400


def test_epoch_of_another_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch holds for whichever run_interval counts, and goes with it
    where something else counts, in the supervisor too."""
    settings = {'RUN_INTERVAL': 60, 'RUN_INTERVAL_EPOCH': '2026-01-01'}
    monkeypatch.setenv('JOBSLIB_RUN_INTERVAL', '30')
    config = make(**settings)
    assert isinstance(config.make_plan('x').rhythm, Grid)
    monkeypatch.delenv('JOBSLIB_RUN_INTERVAL')
    monkeypatch.setenv('JOBSLIB_SLEEP_INTERVAL', '30')
    config = make(**settings)
    assert config.run_interval_epoch is None
    exported = {**config.export(), 'groups': {}}
    assert isinstance(Config.restore(exported).make_plan('x').rhythm, Pause)


def test_boolean_that_is_switched_off() -> None:
    """What the settings switch on the command line can switch off."""
    args = build_parser().parse_args(['--no-keep-lock', '--no-run-once', 'a.Task'])
    config = Config(SimpleNamespace(KEEP_LOCK=True, RUN_ONCE=True), args, None)
    assert (config.keep_lock, config.run_once) == (False, False)


class Numbers(ConfigGroup):
    """One option for each kind of bounds."""

    plain = option()
    low = option(attrtype=int, minimum=1)
    high = option(attrtype=int, maximum=9)
    both = option(attrtype=int, minimum=1, maximum=9)
    above = option(attrtype=float, above=1)
    between = option(attrtype=float, above=1, maximum=9)
    chosen = option(attrtype=str, choices=('http', 'https'))
    many = option(attrtype=list, env='JOBSLIB_TEST_MANY')


@pytest.mark.parametrize(('name', 'good', 'bad', 'allowed'), [
    ('low', [1, 2], [0, -1], 'an integer of at least 1'),
    ('high', [9, -1], [10], 'an integer of at most 9'),
    ('both', [1, 9], [0, 10], 'an integer from 1 to 9'),
    ('above', [1.1, 2], [1, 1.0, 0.9], 'a number above 1'),
    ('between', [1.1, 9], [1, 9.1], 'a number above 1, at most 9'),
    ('chosen', ['http', 'https'], ['ftp', '', 'HTTPX'],
     'one of http, https'),
    ('many', [[], [1]], [(), {}, 'x'],
     'a list (in the environment a JSON array)'),
    ('low', [], [1.0, True, '1'], 'an integer of at least 1'),
    ('chosen', [], [5, None.__class__], 'one of http, https'),
])
def test_bounds(name: str, good: list[Any], bad: list[Any],
                allowed: str) -> None:
    """A value is checked against its type, bounds and choices."""
    for value in good:
        assert getattr(Numbers({name: value}, None), name) == value
    for value in bad:
        assert refusal(lambda: Numbers({name: value}, None)) == (
            f'{name}: {value!r} from settings, {name} is not allowed; '
            f'allowed: {allowed}')


def test_any_value() -> None:
    """An option without a type takes any value, and says so."""
    value = object()
    assert Numbers({'plain': value}, None).plain is value
    assert Numbers.declared()['plain'].allowed() == 'any value'


def test_integer_for_a_float() -> None:
    """An integer is accepted where a float is asked for, and becomes one."""
    value = Numbers({'above': 2}, None).above
    assert value == 2
    assert type(value) is float


def test_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is given as JSON in the environment."""
    monkeypatch.setenv('JOBSLIB_TEST_MANY', '[1, "x"]')
    assert Numbers(None, None).many == [1, 'x']
    monkeypatch.setenv('JOBSLIB_TEST_MANY', '[1, ')
    assert 'Expecting value: line 1 column 5' in refusal(
        lambda: Numbers(None, None))


def test_integer_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An integer in the environment has no fraction."""
    class Group(ConfigGroup):
        count = option(attrtype=int, env='JOBSLIB_TEST_COUNT')

    monkeypatch.setenv('JOBSLIB_TEST_COUNT', '12')
    assert Group(None, None).count == 12
    monkeypatch.setenv('JOBSLIB_TEST_COUNT', '1.0')
    assert refusal(lambda: Group(None, None)) == (
        "count: '1.0' from environment, JOBSLIB_TEST_COUNT is not allowed; "
        "allowed: an integer")


def test_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fallback counts after the settings and before the default."""
    found: list[Given] = []
    groups: list[ConfigGroup] = []

    def fallback(group: ConfigGroup) -> Given | None:
        groups.append(group)
        return found[0] if found else None

    class Group(ConfigGroup):
        port = option(attrtype=int, default=1, env='JOBSLIB_TEST_PORT',
                      fallback=fallback)

    assert Group(None, None).port == 1
    found.append(Given('2', 'the standard'))
    group = Group({}, None)
    assert (group.port, group.source('port')) == (2, 'the standard')
    assert groups[-1] is group
    assert Group({'port': 3}, None).port == 3
    monkeypatch.setenv('JOBSLIB_TEST_PORT', '4')
    assert Group({'port': 3}, None).port == 4


def test_decorator_without_arguments() -> None:
    """A decorated method is an option whose value the method returns."""
    class Group(ConfigGroup):
        @option
        def address(self) -> str:
            """Where it is."""
            return f'{self._settings.HOST}:{self._args_parser.port}'

    group = Group(SimpleNamespace(HOST='here'), SimpleNamespace(port=5))
    assert group.address == 'here:5'
    assert Group.declared()['address'].__doc__ == 'Where it is.'


def test_decorator_with_arguments() -> None:
    """The value of a decorated method is checked as any other."""
    class Group(ConfigGroup):
        @option(required=True, attrtype=str)
        def host(self) -> Any:
            """A host."""
            return self._settings.HOST

    assert Group(SimpleNamespace(HOST='here'), None).host == 'here'
    assert refusal(lambda: Group(SimpleNamespace(HOST=5), None)) == (
        'host: 5 from computed is not allowed; allowed: a string')
    assert refusal(lambda: Group(SimpleNamespace(HOST=None), None)) == (
        'host: required, and not given; allowed: a string')
    assert Group.declared()['host'].__doc__ == 'A host.'


def test_decorator_integer_for_a_float() -> None:
    """A decorated method may return an integer where a float is asked for."""
    class Group(ConfigGroup):
        @option(attrtype=float, above=0)
        def pause(self) -> Any:
            return self._settings['length']

        length = option()

    assert type(Group({'length': 2}, None).pause) is float
    assert 'a number above 0' in refusal(lambda: Group({'length': 0}, None))
    assert 'a number above 0' in refusal(lambda: Group({'length': True}, None))


def test_computed_once() -> None:
    """A decorated method is called once, when the container is made."""
    calls = []

    class Group(ConfigGroup):
        @option
        def value(self) -> object:
            calls.append(self)
            return object()

    first, second = Group(None, None), Group(None, None)
    assert calls == [first, second]
    assert first.value is first.value
    assert first.value is not second.value
    assert len(calls) == 2


def test_computed_none_is_cached() -> None:
    """A method that returns None is called once as well."""
    calls = []

    class Group(ConfigGroup):
        @option
        def value(self) -> None:
            calls.append(self)

    group = Group(None, None)
    assert group.value is None
    assert group.value is None
    assert len(calls) == 1


def test_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A declared option keeps the value that it had in the beginning."""
    monkeypatch.setenv('JOBSLIB_SLEEP_INTERVAL', '5')
    config = make()
    monkeypatch.setenv('JOBSLIB_SLEEP_INTERVAL', '6')
    assert config.sleep_interval == 5


def test_options_use_each_other() -> None:
    """A decorated method may read options that stand below it."""
    class Group(ConfigGroup):
        @option
        def url(self) -> str:
            return f'http://{self.host}'

        host = option(attrtype=str, default='localhost')

    assert Group(None, None).url == 'http://localhost'


def test_declaration() -> None:
    """The class shows the declaration where its instances have the value."""
    declared = Config.sleep_interval
    assert isinstance(declared, option)
    assert declared.name == 'sleep_interval'
    assert Config.declared()['sleep_interval'] is declared


def test_no_flag() -> None:
    """An option without a flag is not looked for on the command line."""
    config = make({'logging': 'an argument of the task', 'one_instance': 5})
    assert config.logging is None
    assert config.one_instance.raw_value('backend') == FILE_LOCK


def test_required() -> None:
    """A required option that nothing gives is refused."""
    class Group(ConfigGroup):
        host = option(attrtype=str, required=True)

    assert Group({'host': 'here'}, None).host == 'here'
    assert refusal(lambda: Group({}, None)) == (
        'host: required, and not given; allowed: a string')


class Inner(ConfigGroup):
    """A nested group."""

    port = option(attrtype=int, minimum=1, default=8500,
                  env='JOBSLIB_TEST_PORT', flag='--test-port')


class Outer(ConfigGroup):
    """A group with a group in it."""

    inner = option(attrtype=Inner, default={})
    spare = option(attrtype=Inner)


def test_nested_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested group has the sources that its container has."""
    assert Outer(None, None).inner.port == 8500
    assert Outer(None, None).spare is None
    settings = SimpleNamespace(INNER={'port': 1})
    assert Outer(settings, None).inner.port == 1
    monkeypatch.setenv('JOBSLIB_TEST_PORT', '2')
    assert Outer(settings, None).inner.port == 2
    args = SimpleNamespace(test_port='3')
    assert Outer(settings, args).inner.port == 3


def test_nested_group_given_as_such() -> None:
    """A nested group that was made already is taken as it is."""
    inner = Inner({'port': 5}, None)
    assert Outer({'inner': inner}, None).inner is inner


def test_nested_errors_say_where() -> None:
    """An error in a nested group names the way to the value."""
    assert refusal(
        lambda: Outer(SimpleNamespace(INNER={'port': 0}), None)) == (
        "port: 0 from settings, INNER['port'] is not allowed; "
        "allowed: an integer of at least 1")
    assert refusal(
        lambda: Outer({'inner': {'prot': 0}}, None)) == (
        "unknown option 'prot' in settings, inner, nearest known: 'port'; "
        "allowed: port")


@pytest.mark.parametrize('value', ['x', 5, [], True])
def test_nested_group_is_a_dict(value: Any) -> None:
    """A nested group is not made from anything but a dict."""
    assert f'inner: {value!r} from settings, INNER is not allowed' in refusal(
        lambda: Outer(SimpleNamespace(INNER=value), None))


def test_as_kwargs() -> None:
    """The options are given as a dict too, computed ones included."""
    class Group(Inner):
        host = option(attrtype=str, default='here')

        @option
        def url(self) -> str:
            return f'{self.host}:{self.port}'

    assert Group({'port': 1}, None).as_kwargs == {
        'port': 1, 'host': 'here', 'url': 'here:1'}


def test_unknown_option() -> None:
    """An unknown key of a dict is refused, with the nearest known one."""
    assert refusal(lambda: Numbers({'chosne': 'x'}, None)) == (
        "unknown option 'chosne' in settings, nearest known: 'chosen'; "
        "allowed: above, between, both, chosen, high, low, many, plain")


def test_unknown_option_of_a_group_without_any() -> None:
    """An unknown key is refused where there are no options as well."""
    assert refusal(lambda: ConfigGroup({'x': 1}, None)) == (
        "unknown option 'x' in settings; allowed: none")


def test_key_that_is_no_text() -> None:
    """A key that is no text is refused as unknown."""
    assert "unknown option 5 in settings" in refusal(
        lambda: Numbers({5: 1}, None))


def test_setting_name() -> None:
    """A name of its own in the settings replaces the option's."""
    class Group(ConfigGroup):
        value = option(setting='other')

    assert Group({'other': 1}, None).value == 1
    assert Group(SimpleNamespace(other=2, VALUE=3), None).value == 2
    assert "allowed: other" in refusal(lambda: Group({'value': 1}, None))


def test_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message shows a secret."""
    class Group(ConfigGroup):
        token = option(attrtype=str, secret=True, choices=['s3cret'],
                       env='JOBSLIB_TEST_TOKEN')
        pin = option(attrtype=int, secret=True, env='JOBSLIB_TEST_PIN')

    group = Group({'token': 's3cret', 'pin': 1234}, None)
    assert group.token == 's3cret'
    assert str(group.error('token', 'it is old')) == (
        'token: *** from settings, token: it is old')
    assert refusal(lambda: Group({'token': 'hunter2'}, None)).startswith(
        'token: *** from settings, token is not allowed')
    monkeypatch.setenv('JOBSLIB_TEST_PIN', 'hunter2')
    assert refusal(lambda: Group(None, None)) == (
        'pin: *** from environment, JOBSLIB_TEST_PIN is not allowed; '
        'allowed: an integer')


def test_secret_is_not_in_a_repr() -> None:
    """The repr of a group shows none of its values."""
    class Group(ConfigGroup):
        token = option(attrtype=str, secret=True)

    group = Group({'token': 's3cret'}, None)
    assert 's3cret' not in repr(group)
    assert 's3cret' not in repr(Group.declared())


def test_options_in_a_wrong_form_are_not_shown() -> None:
    """The options of a lock, a secret maybe among them, are not shown."""
    message = refusal(lambda: make(
        ONE_INSTANCE={'options': [('token', 's3cret')]}))
    assert 's3cret' not in message
    assert "ONE_INSTANCE['options']" in message


def test_group_error() -> None:
    """A group's own checks name the value and where it came from."""
    assert str(Inner({'port': 5}, None).error('port', 'it is taken')) == (
        'port: 5 from settings, port: it is taken')


def test_validate() -> None:
    """A group checks its options against each other when it is made."""
    class Group(ConfigGroup):
        low = option(attrtype=int, default=1)
        high = option(attrtype=int, default=2)

        def validate(self) -> None:
            if self.low > self.high:
                raise self.error('low', f'it is above high, {self.high}')

    Group({'low': 2}, None)
    assert refusal(lambda: Group({'low': 3}, None)) == (
        'low: 3 from settings, low: it is above high, 2')


class OwnConfig(Config):
    """A configuration with options of its own."""

    batch = option(attrtype=int, minimum=1, default=10, flag='--batch',
                   env='JOBSLIB_BATCH')
    sleep_interval = option(attrtype=float, default=30.0)

    @option(required=True, attrtype=str)
    def target(self) -> Any:
        return getattr(self._settings, 'TARGET', None)


def test_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass of Config has its own options and all of ours."""
    settings = SimpleNamespace(TARGET='there', BATCH=20, KEEP_LOCK=True)
    config = OwnConfig(settings, None, PlainTask)
    assert (config.target, config.batch) == ('there', 20)
    assert config.keep_lock is True
    monkeypatch.setenv('JOBSLIB_BATCH', '30')
    assert OwnConfig(settings, None, PlainTask).batch == 30
    args = SimpleNamespace(batch='40')
    assert OwnConfig(settings, args, PlainTask).batch == 40
    assert 'target: required' in refusal(
        lambda: OwnConfig(None, None, PlainTask))


def test_own_options_replace_ours() -> None:
    """A subclass of Config can give an option another default."""
    settings = SimpleNamespace(TARGET='there')
    assert OwnConfig(settings, None, PlainTask).sleep_interval == 30


def test_option_taken_away() -> None:
    """An option that a subclass replaces by a value is none any more."""
    class Fixed(Config):
        keep_lock = True

    assert 'keep_lock' not in Fixed.declared()
    assert Fixed(SimpleNamespace(KEEP_LOCK=5), None, PlainTask).keep_lock


def test_task_name() -> None:
    """A task without a name goes by its dotted path."""
    assert make().task_name == 'plain'
    task_cls = type('Nameless', (PlainTask,),
                    {'name': '', '__module__': 'pkg.module'})
    assert Config(None, None, task_cls).task_name == 'pkg.module.Nameless'


def test_options_of_the_lock() -> None:
    """The lock's options come from ONE_INSTANCE."""
    config = make(ONE_INSTANCE={
        'backend': FILE_LOCK, 'options': {'folder': '/x', 'grace': 2}})
    assert config.one_instance.raw_value('backend') == FILE_LOCK
    assert config.one_instance.options.folder == '/x'
    assert config.one_instance.options.grace == 2.0


def test_options_of_the_default_lock() -> None:
    """Options without a backend are those of the default lock."""
    config = make(ONE_INSTANCE={'options': {'folder': '/x'}})
    assert config.one_instance.options.folder == '/x'


def test_other_backend_drops_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend of the environment is not given another's options."""
    settings = {'backend': FILE_LOCK, 'options': {'folder': '/x', 'grace': 2}}
    monkeypatch.setenv('JOBSLIB_ONE_INSTANCE_BACKEND', DUMMY_LOCK)
    config = make(ONE_INSTANCE=settings)
    assert config.one_instance.raw_value('backend') == DUMMY_LOCK
    assert config.one_instance.backend_class.__name__ == 'DummyLock'
    assert config.one_instance.options.grace is None


def test_same_backend_keeps_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that the environment repeats keeps its options."""
    monkeypatch.setenv('JOBSLIB_ONE_INSTANCE_BACKEND', FILE_LOCK)
    config = make(ONE_INSTANCE={
        'backend': FILE_LOCK, 'options': {'folder': '/x'}})
    assert config.one_instance.options.folder == '/x'


def test_disabled_lock() -> None:
    """--disable-one-instance takes the dummy lock, whatever is set."""
    config = make({'disable_one_instance': True}, ONE_INSTANCE={
        'backend': 'no.such.Lock', 'options': {'anything': 1}})
    assert config.one_instance.backend_class.__name__ == 'DummyLock'
    assert config.one_instance.options.grace is None


def test_unknown_option_of_the_lock() -> None:
    """An unknown option of the lock is refused, with the nearest known."""
    assert refusal(lambda: make(ONE_INSTANCE={
        'backend': FILE_LOCK, 'options': {'foldre': '/x'}})) == (
        "unknown option 'foldre' in settings, ONE_INSTANCE['options'], "
        "nearest known: 'folder'; allowed: folder, grace, heartbeat")


def test_bad_option_of_the_lock() -> None:
    """A bad option of the lock is refused, with the way to it."""
    assert refusal(lambda: make(ONE_INSTANCE={
        'backend': FILE_LOCK, 'options': {'grace': 0}})) == (
        "grace: 0 from settings, ONE_INSTANCE['options']['grace'] is not "
        "allowed; allowed: a number of seconds above 0")


def test_option_of_the_lock_in_the_environment(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock's options have variables, which win over the settings."""
    monkeypatch.setenv('JOBSLIB_ONE_INSTANCE_HEARTBEAT', '7')
    monkeypatch.setenv('JOBSLIB_ONE_INSTANCE_GRACE', '0.5')
    monkeypatch.setenv('JOBSLIB_ONE_INSTANCE_FILE_FOLDER', '/y')
    config = make(ONE_INSTANCE={
        'options': {'heartbeat': 5, 'grace': 1, 'folder': '/x'}})
    assert config.one_instance.options.as_kwargs == {
        'heartbeat': 7.0, 'grace': 0.5, 'folder': '/y'}


def test_unknown_key_of_one_instance() -> None:
    """An unknown key of ONE_INSTANCE is refused; each known is named once."""
    assert refusal(lambda: make(ONE_INSTANCE={'backed': FILE_LOCK})) == (
        "unknown option 'backed' in settings, ONE_INSTANCE, nearest known: "
        "'backend'; allowed: backend, disabled, options")


WHERE = f' in {os.getcwd()} or where Python has its packages'


@pytest.mark.parametrize(('backend', 'detail'), [
    ('no_such.Lock', f"no module named 'no_such'{WHERE}"),
    ('no_such.ConsulLock', f"no module named 'no_such'{WHERE} (did you mean "
     "'jobslib.oneinstance.consul.ConsulLock'?)"),
    ('jobslib.no_such.Lock', "no module named 'jobslib.no_such'"),
    ('jobslib.clock.NoSuch', "module 'jobslib.clock' has no 'NoSuch' (it has Clock)"),
    ('nodot', "'nodot' is not a dotted path (package.module.Name)"),
    ('jobslib.clock.Clock', 'it is not a BaseLock'),
    ('os.getcwd', 'it is not a BaseLock'),
])
def test_bad_backend(backend: str, detail: str) -> None:
    """A backend that is none is refused, with what it is."""
    assert refusal(lambda: make(ONE_INSTANCE={'backend': backend})) == (
        f"backend: {backend!r} from settings, ONE_INSTANCE['backend']: "
        f"{detail}; allowed: the dotted path of a BaseLock")


@pytest.mark.parametrize(('path', 'detail'), [
    ('no_such.Context', f"no module named 'no_such'{WHERE} (did you mean "
     "'jobslib.context.Context'?)"),
    ('jobslib.clock.Clock', 'it is not a Context'),
    ('os.getcwd', 'it is not a Context'),
])
def test_bad_context_class(path: str, detail: str) -> None:
    """A context class that is none is refused, with what it is."""
    config = make(CONTEXT_CLASS=path)
    assert refusal(config.make_context) == (
        f'context_class: {path!r} from settings, CONTEXT_CLASS: {detail}; '
        f'allowed: the dotted path of a Context')


def test_one_instance_by_itself() -> None:
    """The group of the lock can be made without any settings."""
    group = OneInstanceConfig(None, None)
    assert group.raw_value('backend') == FILE_LOCK
    assert group.options.folder is None
    assert "from settings, ONE_INSTANCE['options']['grace'] is" in refusal(
        lambda: OneInstanceConfig({'options': {'grace': 0}}, None))
