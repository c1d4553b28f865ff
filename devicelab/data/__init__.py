"""Data: where they come from, how clients and devices share them, and the files that go to phones.

:func:`devicelab.data.prepare.prepare` does it all, from an experiment to shards on the disk.
"""
