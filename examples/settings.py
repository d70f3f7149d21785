"""Settings for machines that share a Consul.

    runjob --settings examples.settings examples.hello.Hello

Every value can be overridden in the environment, which is the place for what
differs between machines, and for secrets::

    export JOBSLIB_ONE_INSTANCE_CONSUL_HOST=consul.example.com
    export JOBSLIB_ONE_INSTANCE_CONSUL_TOKEN_FILE=/etc/jobs/consul-token
"""

# A run every minute, on a grid that is counted from the first start.
RUN_INTERVAL = 60

# One machine keeps the lock, the others wait as hot standbys.
KEEP_LOCK = True

# A run that takes longer is stopped, in seconds.
MAX_RUN_TIME = 600

ONE_INSTANCE = {
    'backend': 'jobslib.oneinstance.consul.ConsulLock',
    'options': {
        'host': '127.0.0.1',
        'port': 8500,
        'ttl': 15,
        'lock_delay': 15,
    },
}

LOGGING = {
    'version': 1,
    'disable_existing_loggers': False,
    'formatters': {
        'line': {'format': '%(asctime)s %(levelname)s %(name)s: %(message)s'},
    },
    'handlers': {
        'console': {'class': 'logging.StreamHandler', 'formatter': 'line'},
    },
    'root': {'level': 'INFO', 'handlers': ['console']},
}
