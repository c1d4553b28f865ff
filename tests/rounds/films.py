"""An experiment on made-up films, and who watched them in which order."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CLIENTS", "ITEMS", "TEXT", "films_experiment", "watched"]

ITEMS, CLIENTS = 60, 9

TEXT = """\
name: films
seed: 4
plan:
  class: devicelab.plans.zoo:DecayedHistories
  args: {items: 60, width: 4, length: 24, negatives: 9}
  counts: {score.bias: item}
data:
  source: movielens
  path: u.data
  histories: {length: 24, negatives: 9}
  held_out: {last: 1, validation: 1}
round:
  rounds: 3
  clients: {number: 6}
  steps: 1
  batch_size: 32
  deadline: 120s
aggregation:
  weight: sqrt_examples
  server: {optimizer: fedadam, lr: 0.05, tau: 0.001}
evaluation:
  every: 3
  training_loss: false
"""


def films_experiment(directory: Path, *, changed: int = 0, text: str = TEXT) -> Path:
    """Films that mostly follow each other by number, and where each client begins.

    Every user's films are a stretch of a walk through all of them.

    Args:
        directory: Where to write experiment and data.
        changed: How many of each user's last films are other ones.
        text: The experiment.
    """
    directory.mkdir()
    lines = []
    for user in range(CLIENTS):
        films = watched(user)
        rest = [film for film in range(ITEMS) if film not in films]
        films[len(films) - changed :] = rest[:changed]
        lines += [f"{user}\t{film}\t3\t{time}" for time, film in enumerate(films)]
    directory.joinpath("u.data").write_text("\n".join(lines + _everything()) + "\n")
    directory.joinpath("u.item").write_text(
        "".join(f"{film}|Film {film} ({1900 + film})\n" for film in range(ITEMS))
    )
    path = directory / "films.yaml"
    path.write_text(text)
    return path


def _everything() -> list[str]:
    """Three more users who see to it that every film has its number, whatever the others held out."""
    return [f"{100 + film % 3}\t{film}\t3\t{film}" for film in range(ITEMS)]


def watched(user: int) -> list[int]:
    """A user's films in order of time, what is held out included."""
    return [(6 * user + 3 * step) % ITEMS for step in range(10 + user)]
