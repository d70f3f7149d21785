"""Everything that speaks with Consul; nothing outside this folder does.

What goes over the wire, from the bottom up:

- :mod:`~jobslib.consul.endpoint` says where the agent is,
  :mod:`~jobslib.consul.sockets` connects to it, :mod:`~jobslib.consul.transport`
  sends requests, and :mod:`~jobslib.consul.answers` reads what comes back;
- :mod:`~jobslib.consul.names` has the names of the keys of a lock,
  :mod:`~jobslib.consul.transactions` the operations on keys and why they are
  refused, :mod:`~jobslib.consul.refusals` what else a refusal means.

What locks, liveness and commands use:

- :mod:`~jobslib.consul.calls` has the single requests, on top of the API of the
  ``consul`` package (:mod:`~jobslib.consul.api`, :mod:`~jobslib.consul.package`);
- :mod:`~jobslib.consul.keyclient` has the calls of commands, which are made of them
  and tried again, :mod:`~jobslib.consul.client` those of locks besides,
  :mod:`~jobslib.consul.services` those of liveness, and
  :mod:`~jobslib.consul.failures` says when to try again and what to raise;
- :mod:`~jobslib.consul.view` reads what Consul knows of jobs, for commands;
- :mod:`~jobslib.consul.rights` tries what a token may do, by
  :mod:`~jobslib.consul.attempts`;
- :mod:`~jobslib.consul.connection` has the options, :mod:`~jobslib.consul.address`
  and :mod:`~jobslib.consul.keys` what may be given for an address and for a key.

What the lease keeper uses:

- :mod:`~jobslib.consul.engine` and :mod:`~jobslib.consul.writes` are Consul as the
  keeper sees it, see :mod:`jobslib.keeper`.
"""
