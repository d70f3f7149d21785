"""The options that say when a job is due, and what becomes of its slots."""

from __future__ import annotations

from jobslib.exceptions import ConfigError
from jobslib.masking import shown
from jobslib.options import ConfigGroup, Given, option

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime
    from typing import TypeVar

    from jobslib.schedule.plans import Plan
    from jobslib.schedule.rhythms import Rhythm
    from jobslib.schedule.zones import Zone

    T = TypeVar('T', covariant=True)

__all__ = ['ScheduleOptions', 'rhythm_option', 'schedule_option']

# The years of which a time can be shown in any time zone.
FIRST_YEAR, LAST_YEAR = 2, 9998

# The last second of the calendar, as a UNIX time.
LATEST = 253402300799.0

#: The options that say when a job is due; only one of them may be given.
RHYTHMS = ('schedule', 'sleep_interval', 'run_interval')


class rhythm_option(option['T']):
    """One of the options that say when a job is due.

    They exclude each other.  If the command line gives one of them, none that the
    environment or the settings give counts, and so on.
    """

    def given(self, group: ConfigGroup) -> Given | None:
        """Return what was given for the option, in the first source that gives one
        of these options; ``None`` if it gives another one.
        """
        declared = group.declared()
        options = [declared[name] for name in RHYTHMS if name in declared]
        sources = [{each.name: each._from_command_line(group)
                    for each in options},
                   {each.name: each._from_environment() for each in options},
                   {each.name: each._from_settings(group) for each in options}]
        for found in sources:
            if any(given is not None for given in found.values()):
                return found.get(self.name)
        return None


class schedule_option(rhythm_option['list[str] | None']):
    """Cron expressions, one or a list of them."""

    repeatable = True

    def allowed(self) -> str:
        """Return what the option allows."""
        return ('a cron expression, or a list of them (in the environment a '
                'JSON array)')

    def show(self, value: object) -> str:
        """Return *value* for a message; there is nothing secret in it."""
        return shown(value)

    def _convert(self, given: Given, group: ConfigGroup) -> object:
        value = given.value
        if isinstance(value, str) and value.lstrip().startswith('[') and (
                given.source.startswith('environment')):
            import json
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise self.error(given, 'it is not JSON') from None
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple) or not value or not all(
                isinstance(each, str) for each in value):
            raise self.error(given)
        return list(value)


class epoch_option(option['str | None']):
    """Where the grid of run_interval lies; it counts only if that does."""

    def given(self, group: ConfigGroup) -> Given | None:
        """Return what was given, unless a run_interval was given as well and does
        not count, because another option says when the job is due.
        """
        declared = group.declared()['run_interval']
        lost = declared.read(group) is None and any((
            declared._from_command_line(group), declared._from_environment(),
            declared._from_settings(group)))
        return None if lost else super().given(group)


class ScheduleOptions(ConfigGroup):
    """When a job is due, and what becomes of its slots."""

    schedule: option[list[str] | None] = schedule_option(
        attrtype=list, flag='--schedule', metavar='CRON',
        env='JOBSLIB_SCHEDULE',
        help='When the job is due: a cron expression of five or six fields, '
             '@daily and the like, or several of them.')
    time_zone = option(
        attrtype=str, default='UTC', flag='--time-zone', metavar='ZONE',
        env='JOBSLIB_TIME_ZONE',
        help='The time zone of schedule and run_interval_epoch, as '
             'Europe/Prague.')
    sleep_interval: option[float | None] = rhythm_option(
        attrtype=float, minimum=0, flag='--sleep-interval',
        metavar='SECONDS', env='JOBSLIB_SLEEP_INTERVAL',
        help='Pause from the end of a run to the start of the next.')
    run_interval: option[float | None] = rhythm_option(
        attrtype=float, minimum=0, flag='--run-interval',
        metavar='SECONDS', env='JOBSLIB_RUN_INTERVAL',
        help='Start runs on a grid of this many seconds, without drift.')
    run_interval_epoch = epoch_option(
        attrtype=str, kind='a time in ISO 8601', flag='--run-interval-epoch',
        metavar='TIME', env='JOBSLIB_RUN_INTERVAL_EPOCH',
        help='One of the slots of run_interval, so that its grid is known in '
             'advance; without a distance from UTC it is in time_zone.')
    jitter = option(
        attrtype=float, minimum=0, maximum=1e9, default=0.0, flag='--jitter',
        metavar='SECONDS', env='JOBSLIB_JITTER',
        help='Start runs up to so much later than their slots, always the '
             'same for one job, different from job to job.')
    catch_up = option(
        attrtype=str, choices=('none', 'latest', 'all'), default='latest',
        flag='--catch-up', metavar='WHICH', env='JOBSLIB_CATCH_UP',
        help='Which slots that passed while nobody could run are run late.')
    start_deadline = option(
        # Without it each slot would be late before anybody could begin it.
        attrtype=float, minimum=0.1, flag='--start-deadline',
        metavar='SECONDS', env='JOBSLIB_START_DEADLINE',
        help='Do not begin a slot that is later than this.')
    retries = option(
        attrtype=int, minimum=0, default=0, flag='--retries', metavar='COUNT',
        env='JOBSLIB_RETRIES',
        help='How often a failed run is tried again in its slot.')
    retry_delay = option(
        attrtype=float, minimum=0, default=60.0, flag='--retry-delay',
        metavar='SECONDS', env='JOBSLIB_RETRY_DELAY',
        help='Pause from a failed run to the next of its slot; it doubles.')
    recoveries = option(
        attrtype=int, minimum=0, default=1, flag='--recoveries',
        metavar='COUNT', env='JOBSLIB_RECOVERIES',
        help='How often a slot is run again whose run was cut short; with 0 '
             'a slot is run at most once.')

    def validate(self) -> None:
        """Refuse what contradicts itself, wrong expressions and zones."""
        given = [name for name in RHYTHMS if getattr(self, name)]
        if len(given) > 1:
            shown = [f'{name} ({_shown(getattr(self, name))} from '
                     f'{self.source(name)})' for name in given]
            raise ConfigError(f'{" and ".join(shown)} exclude each other; '
                              f'give one of them')
        if self.schedule is not None:
            self._make_calendar()
        if self.run_interval_epoch is not None:
            self._read_epoch(self.run_interval_epoch)
            if not self.run_interval:
                raise self.error(
                    'run_interval_epoch', 'there is no run_interval whose '
                    'grid it could be of; give one, or leave this out')

    def local_time(self, at: float) -> datetime.datetime:
        """Return the UNIX time *at* in the schedule's time zone."""
        import datetime
        if self.schedule is None and self.run_interval_epoch is None:
            # An interval may be so long that its end is beyond the calendar.
            return datetime.datetime.fromtimestamp(
                min(at, LATEST), datetime.UTC)
        from jobslib.schedule.zones import Zone
        return Zone(self.time_zone).shown(at)

    def make_plan(self, name: str) -> Plan:
        """Return the plan of the job *name*."""
        from jobslib.schedule import plans
        return plans.Plan(
            self._make_rhythm(), jitter=plans.jitter(name, self.jitter),
            catch_up=plans.CatchUp(self.catch_up),
            start_deadline=self.start_deadline, retries=self.retries,
            retry_delay=self.retry_delay, recoveries=self.recoveries)

    def _make_rhythm(self) -> Rhythm:
        from jobslib.schedule.rhythms import Endless, Every, Grid, Pause
        if self.schedule is not None:
            return self._make_calendar()
        if self.run_interval and self.run_interval_epoch is not None:
            return Grid(self.run_interval,
                        self._read_epoch(self.run_interval_epoch))
        if self.run_interval:
            return Every(self.run_interval)
        return Pause(self.sleep_interval) if self.sleep_interval else Endless()

    def _make_calendar(self) -> Rhythm:
        from jobslib.schedule.calendars import (
            Calendar,
            Expression,
            ExpressionError,
        )
        expressions = []
        for text in self.schedule or ():
            try:
                expressions.append(Expression(text))
            except ExpressionError as exc:
                raise ConfigError(f'schedule: {shown(text)} from '
                                  f'{self.source("schedule")}: {exc}') from None
        return Calendar(expressions, self._make_zone())

    def _make_zone(self) -> Zone:
        from jobslib.schedule.zones import Zone, ZoneError
        try:
            return Zone(self.time_zone)
        except ZoneError as exc:
            raise self.error('time_zone', str(exc)) from None

    def _read_epoch(self, text: str) -> float:
        """Return the UNIX time of run_interval_epoch."""
        import datetime
        try:
            epoch = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise self.error(
                'run_interval_epoch', 'it cannot be read; allowed: a time in '
                'ISO 8601, as 2026-01-01T00:00:00 or 2026-01-01T00:00:00+01:00'
            ) from None
        if epoch.tzinfo is None:
            epoch = epoch.replace(tzinfo=self._make_zone().tzinfo)
        if not FIRST_YEAR <= epoch.year <= LAST_YEAR:
            raise self.error(
                'run_interval_epoch', f'its year is out of range; allowed: a '
                f'time in the years {FIRST_YEAR} to {LAST_YEAR}')
        return epoch.timestamp()


def _shown(value: object) -> str:
    return f'{value:g}' if isinstance(value, float) else shown(value)
