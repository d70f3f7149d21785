"""What jobslib 3 had for settings: a configuration of logging.

It is no module of ours otherwise, and is imported by settings alone; inside
the package ``import logging`` is Python's own, as everywhere.
"""

from __future__ import annotations

__all__ = ['BASE_LOGGING']

#: Messages from ``INFO`` on, on standard error, as jobslib 3 wrote them.  With
#: it as ``LOGGING``, ``LOG_FORMAT`` and ``LOG_LEVEL`` have no effect.
BASE_LOGGING = {
    'version': 1,
    'disable_existing_loggers': False,
    'formatters': {'default': {
        'format': '%(asctime)s %(name)s %(levelname)s %(message)s',
        'datefmt': '%Y-%m-%d %H:%M:%S'}},
    'handlers': {'console': {
        'class': 'logging.StreamHandler', 'level': 'NOTSET',
        'formatter': 'default'}},
    'root': {'handlers': ['console'], 'level': 'INFO'},
}
