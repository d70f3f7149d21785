"""The logging configuration that jobslib 3 had, for settings that import it.

Nothing in jobslib uses this module; ``import logging`` is Python's own inside the
package as well.
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
