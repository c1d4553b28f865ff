"""The runner: which program and engine a phone needs, how a job is started, followed, stopped and collected.

The native program is in ``native/``; docs/runner.md is what it and this room promise each other.
"""
