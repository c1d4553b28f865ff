"""Plans: a PyTorch training step as one self-describing ONNX file, and as TorchScript.

Importing the package loads nothing. PyTorch is needed to make a plan, not to use one: ``reader`` and
``inspection`` do without it; ``signature``, ``cache`` and ``build`` (while the plan is in the cache) do without
ONNX as well.
"""
