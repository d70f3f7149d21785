"""The names of the metrics that the loop reports, and what they mean."""

__all__ = ['HELP', 'LAST_SUCCESS', 'LEASE_SLACK', 'LOCK_HELD',
           'MISSED_SLOTS', 'RUNS', 'RUN_SECONDS']

RUNS = 'jobslib_runs_total'
RUN_SECONDS = 'jobslib_run_seconds'
LAST_SUCCESS = 'jobslib_last_success_timestamp_seconds'
MISSED_SLOTS = 'jobslib_missed_slots_total'
LOCK_HELD = 'jobslib_lock_held'
LEASE_SLACK = 'jobslib_lease_slack_seconds'

#: What each of them means.
HELP = {
    RUNS: 'Runs that ended, by outcome.',
    RUN_SECONDS:
        'Duration of the last run with this outcome; pending: the run under '
        'way, 0 when there is none.',
    LAST_SUCCESS: 'UNIX time at which the last successful run ended.',
    MISSED_SLOTS: 'Slots that were given up.',
    LOCK_HELD: 'Whether this process holds the lock, 1 or 0.',
    LEASE_SLACK:
        'Seconds until the lease would end if it were not renewed any more, 0 '
        'while the lock is not held.',
}
