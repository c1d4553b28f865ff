"""Ready-made plans, for configs, tests and benchmarks; and examples of how little a plan takes to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from devicelab.plans.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer
from devicelab.plans.plan import TrainingPlan
from devicelab.plans.zoo.histories import DecayedHistories
from devicelab.plans.zoo.recommenders import MatrixFactorization, MultinomialAutoencoder, NeuMF
from devicelab.plans.zoo.sequences import GRUClassifier, TransformerClassifier
from devicelab.plans.zoo.vision import MLP, LeNet, MobileNet

__all__ = [
    "MLP",
    "OPTIMIZERS",
    "ZOO",
    "DecayedHistories",
    "GRUClassifier",
    "LeNet",
    "MatrixFactorization",
    "MobileNet",
    "MultinomialAutoencoder",
    "NeuMF",
    "TransformerClassifier",
]

ZOO: Final[dict[str, Callable[[], TrainingPlan]]] = {
    plan.name: plan
    for plan in (
        MatrixFactorization,
        NeuMF,
        MultinomialAutoencoder,
        DecayedHistories,
        MLP,
        LeNet,
        MobileNet,
        GRUClassifier,
        TransformerClassifier,
    )
}

OPTIMIZERS: Final[dict[str, Optimizer]] = {
    "sgd": SGD(lr=0.05),
    "momentum": SGD(lr=0.02, momentum=0.9),
    "nesterov": SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": Adam(lr=1e-3),
    "adamw": AdamW(lr=1e-3),
    "adagrad": Adagrad(lr=1e-2),
}
"""One of each kind, with rates at which every model of the zoo learns."""
