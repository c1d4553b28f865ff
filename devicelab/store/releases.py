"""What the ledger knows of a private run's noisy means, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["PrivacySpent", "ReleaseRecord"]


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """The noisy mean of a round's updates: made once, and all that the next model knows of them.

    Attributes:
        round: Of which round.
        blob: SHA-256 of the mean's file.
        sampling: With which probability each client took part.
        expected: The number of clients that the sum was divided by.
        clip_norm: How long one client's delta was at most.
        noise_multiplier: The noise's standard deviation on the sum, in clip norms.
        delta: δ.
        epsilon: ε of this release and all before it.
        created: When.
    """

    round: int
    blob: str
    sampling: float
    expected: float
    clip_norm: float
    noise_multiplier: float
    delta: float
    epsilon: float
    created: float


@dataclass(frozen=True, slots=True)
class PrivacySpent:
    """How private the models of a run are, all together: (ε, δ) for a client's whole shard, there or not.

    Attributes:
        epsilon: ε; infinite where there is none for this δ.
        delta: δ.
        noise_multiplier: The noise's standard deviation on the sum, in clip norms.
        clip_norm: The clip norm.
        sampling: With which probability each client took part in a round.
        rounds: How many noisy sums were made.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip_norm: float
    sampling: float
    rounds: int

    def document(self) -> dict[str, float | int | None]:
        """As ``--json`` has it; ε is null where it is infinite."""
        return {
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "clip_norm": self.clip_norm,
            "sampling": self.sampling,
            "rounds": self.rounds,
        }
