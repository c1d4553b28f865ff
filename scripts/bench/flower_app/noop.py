"""Runs in Flower's own environment: rounds whose nodes give back what they were given.

    python noop.py '{"nodes": 4, "numbers": 53750, "rounds": 3, "out": "/tmp/rounds.json"}'

simulates them; as a Flower app (pyproject.toml) it is deployed. ``out`` gets [began, ended] of each round, by the
system's clock.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, _context: Context) -> Message:
    told = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(told), reply_to=message)


class Timed(FedAvg):
    """Flower's FedAvg, with a clock."""

    def __init__(self, nodes: int) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=nodes, min_evaluate_nodes=0, min_available_nodes=nodes
        )
        self.rounds: list[list[float]] = []

    def configure_train(self, server_round, arrays, config, grid):
        began = time.time()
        if not self.rounds:  # the nodes may still be on their way; that is no part of a round
            while len(list(grid.get_node_ids())) < self.min_available_nodes:
                time.sleep(0.05)
            began = time.time()
        self.rounds.append([began])
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        if len(replies) != self.min_train_nodes:
            raise RuntimeError(f"round {server_round}: {len(replies)} replies")
        aggregated = super().aggregate_train(server_round, replies)
        self.rounds[-1].append(time.time())
        return aggregated


def run(grid: Grid, options) -> None:
    strategy = Timed(int(options["nodes"]))
    start = ArrayRecord([np.zeros(int(options["numbers"]), np.float32)])
    strategy.start(grid, start, num_rounds=int(options["rounds"]))
    Path(options["out"]).write_text(json.dumps(strategy.rounds))


@server.main()
def main(grid: Grid, context: Context) -> None:
    run(grid, context.run_config)


def simulate(options) -> None:
    from flwr.simulation import run_simulation  # noqa: PLC0415 - takes Ray

    simulated = ServerApp()

    @simulated.main()
    def main(grid: Grid, _context: Context) -> None:
        run(grid, options)

    ray = {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "_temp_dir": options["scratch"]}
    run_simulation(simulated, client, options["nodes"], backend_config={"init_args": ray})


if __name__ == "__main__":
    simulate(json.loads(sys.argv[1]))
