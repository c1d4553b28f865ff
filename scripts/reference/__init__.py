"""The parts of docs/ that are made from the code, so that they cannot go stale.

``python -m scripts.reference`` writes them; ``tests/docs/test_reference.py`` fails while they differ.
"""
