"""Ready-made plans, for configs, tests and benchmarks; and examples of how little a plan takes to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from devicelab.plans.plan import TrainingPlan
from devicelab.plans.zoo.histories import DecayedHistories
from devicelab.plans.zoo.recommenders import MatrixFactorization, MultinomialAutoencoder, NeuMF
from devicelab.plans.zoo.sequences import GRUClassifier, TransformerClassifier
from devicelab.plans.zoo.vision import MLP, LeNet, MobileNet

__all__ = [
    "MLP",
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
