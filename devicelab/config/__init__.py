"""Experiment and lab files: YAML in, validated and frozen settings out.

::

    from devicelab.config import load_experiment

    experiment = load_experiment(Path("configs/digits.yaml"))
    experiment.round.rounds

Dotted paths stay text here; :mod:`devicelab.plans.loading` and :mod:`devicelab.data` know what to do with them.
"""

from devicelab.config.experiment import Experiment
from devicelab.config.explain import explain
from devicelab.config.lab import LabConfig
from devicelab.config.loading import load_experiment, load_lab

__all__ = ["Experiment", "LabConfig", "explain", "load_experiment", "load_lab"]
