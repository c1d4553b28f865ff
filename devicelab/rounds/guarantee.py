"""What a private run needs of its plan and its data, besides what its experiment says."""

from __future__ import annotations

from devicelab.aggregation.accounting import require_accountant
from devicelab.config import Experiment
from devicelab.errors import ConfigError
from devicelab.plans.signature import Role, Signature

__all__ = ["check_privacy"]


def check_privacy(experiment: Experiment, signature: Signature, clients: int) -> None:
    """See that the guarantee would mean something with this plan and these data.

    Raises:
        ConfigError: It would not, or there is nothing that computes ε.
    """
    privacy = experiment.privacy
    if privacy is None:
        return
    require_accountant()
    if privacy.delta * clients >= 1:
        raise ConfigError(
            f"aggregation.privacy.delta: {privacy.delta:g} is no less than one part in {clients} clients: "
            "to publish one of them in full would count as private",
            hint=f"a δ well below {1 / clients:.1g}",
        )
    running = [i.label for i in signature.with_role(Role.BUFFER) if i.dtype.startswith("float")]
    if running:
        raise ConfigError(
            f"aggregation.privacy: the plan averages running statistics ({', '.join(running[:3])}), "
            "and noise makes a variance negative",
            hint="normalize by groups or layers instead of batches",
        )
