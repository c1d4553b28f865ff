"""Plans: a PyTorch training step as one self-describing ONNX file, and as TorchScript.

Importing this package loads PyTorch; :mod:`devicelab.plans.signature` and :mod:`devicelab.plans.reader`, which
only look at files, can be imported through it all the same.
"""
