"""All that speaks with Consul, and nothing else does.

From the bottom up: :mod:`~jobslib.consul.transport` sends requests,
:mod:`~jobslib.consul.transactions` has the operations on keys and why they are
refused, :mod:`~jobslib.consul.refusals` has what answers mean that are refusals,
:mod:`~jobslib.consul.client` is what locks and commands ask, on top of the
API of python-consul (:mod:`~jobslib.consul.api`, :mod:`~jobslib.consul.package`).
:mod:`~jobslib.consul.view` is what commands read of jobs, and
:mod:`~jobslib.consul.rights` tries what a token may do
(:mod:`~jobslib.consul.attempts`).
:mod:`~jobslib.consul.engine` and :mod:`~jobslib.consul.writes` are Consul as the
lease keeper sees it; :mod:`~jobslib.consul.lease` is a session with its keeper as
the process sees it that holds the lock, and :mod:`~jobslib.consul.launch` starts the
keeper.  :mod:`~jobslib.consul.connection` has the options,
:mod:`~jobslib.consul.address` and :mod:`~jobslib.consul.keys` what may be given for
an address and for a key.
"""
