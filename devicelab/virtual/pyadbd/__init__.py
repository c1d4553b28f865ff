"""An adbd in Python: what a phone speaks where no sandbox for the real one can be had, and a peer for tests.

It serves a directory as the phone's ``/`` over ADB's own protocol: connections, streams, shell v1 and v2, exec
and sync v1 and v2, without compression and terminals. It is protocol coverage, not a phone: commands run on the
host, as this user, and see the host's files (:mod:`devicelab.virtual.pyadbd.tree` says what is translated).
"""
