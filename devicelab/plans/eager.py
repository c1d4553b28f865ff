"""The reference: the same step as anybody would write it in PyTorch, with torch.optim and no tracing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from devicelab.plans.plan import TrainingPlan
from devicelab.plans.randomness import SeededRandom, plain_attention
from devicelab.plans.step import STEP_COUNT, Step

__all__ = ["EagerTrainer", "evaluate_eagerly"]

Arrays = dict[str, np.ndarray[Any, Any]]


class EagerTrainer:
    """Trains a copy of a step's model with PyTorch's own autograd and optimizer.

    Args:
        step: The training step to be matched.
        dtype: float32, or float64 to know what rounding alone does to the numbers.
    """

    def __init__(self, step: Step, *, dtype: torch.dtype = torch.float32) -> None:
        self.plan: TrainingPlan = step.plan
        self.dtype = dtype
        self.model: nn.Module = copy.deepcopy(step.model).to(dtype)
        self.model.train()
        self._named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = self.plan.optimizer.reference(self._named.values())
        self._anchors = {name: p.detach().clone() for name, p in self._named.items()}
        self.steps = 0

    def load(self, values: Mapping[str, np.ndarray[Any, Any]], *, anchor: bool = False) -> None:
        """Put values in place of parameters, buffers and optimizer state.

        Args:
            values: By the names of a plan's inputs, as :meth:`carried` has them; what is missing stays.
            anchor: Whether the parameters are global ones, which FedProx's term pulls towards.
        """
        targets: dict[str, Tensor] = {f"param/{name}": p for name, p in self.model.named_parameters()}
        targets |= {f"buffer/{name}": b for name, b in self.model.named_buffers()}
        self.steps = int(values.get(STEP_COUNT, self.steps))
        with torch.no_grad():
            for name, target in targets.items():
                if name in values:
                    target.copy_(torch.from_numpy(np.array(values[name])))
        for name, p in self._named.items():
            slots = {slot: values.get(f"state/{slot}/{name}") for slot in self.plan.optimizer.slots}
            state = self.optimizer.state[p]
            state |= {slot: torch.tensor(v).to(self.dtype) for slot, v in slots.items() if v is not None}
            if state:
                state["step"] = torch.tensor(float(self.steps))
        if anchor:
            self._anchors = {name: p.detach().clone() for name, p in self._named.items()}

    def set_hyper(self, hyper: Mapping[str, float]) -> None:
        """Use other numbers than the plan's defaults, by hyper label (``lr``, ``mu``, ``clip_norm``, …)."""
        self.plan = copy.copy(self.plan)
        attributes = {"mu": "proximal", "clip_norm": "clip_norm", "example_clip_norm": "example_clip_norm"}
        for name, value in hyper.items():
            if name == "lr":
                for group in self.optimizer.param_groups:
                    group["lr"] = value
            else:
                setattr(self.plan, attributes[name], value)

    def step(self, batch: dict[str, Tensor], *, seed: int = 0) -> Arrays:
        """One step; what a plan's graph would put out, by output name."""
        batch = {name: self._as_float(tensor) for name, tensor in batch.items()}
        plan = self.plan
        self.optimizer.zero_grad(set_to_none=True)
        seed_, count = (torch.tensor(number, dtype=torch.int64) for number in (seed, self.steps))
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        with plain_attention(), SeededRandom(seed_, count) as random:
            if plan.example_clip_norm is None:
                loss = plan.loss(self.model, batch)
                torch.autograd.backward([loss])
            else:
                loss = self._example_by_example(batch, plan.example_clip_norm)
            after = [buffer.clone() for buffer in self.model.buffers()]
            self._restore(buffers)
            random.restart()
            with torch.no_grad():
                metrics = plan.metrics(self.model, batch)
            self._restore(after)
        self._modify_gradients()
        self.optimizer.step()
        self.steps += 1
        outputs = {"loss": loss.detach()}
        for name, (total, count_) in metrics.items():
            outputs[f"metric/{name}/sum"] = torch.as_tensor(total)
            outputs[f"metric/{name}/count"] = torch.as_tensor(count_, dtype=torch.float32)
        outputs |= {f"new/{name}": tensor for name, tensor in self.carried().items()}
        return {name: tensor.detach().numpy().copy() for name, tensor in outputs.items()}

    def _as_float(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _restore(self, buffers: list[Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)

    def _modify_gradients(self) -> None:
        with torch.no_grad():
            if self.plan.proximal is not None:
                for name, p in self._named.items():
                    if p.grad is not None:
                        p.grad += self.plan.proximal * (p - self._anchors[name])
            if self.plan.clip_norm is not None:
                nn.utils.clip_grad_norm_(self._named.values(), self.plan.clip_norm, foreach=False)

    def _example_by_example(self, batch: dict[str, Tensor], limit: float) -> Tensor:
        parameters = list(self._named.values())
        total = [torch.zeros_like(p) for p in parameters]
        losses = []
        examples = len(next(iter(batch.values())))
        for n in range(examples):
            loss = self.plan.loss(self.model, {name: tensor[n : n + 1] for name, tensor in batch.items()})
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            norm = torch.sqrt(sum((g * g).sum() for g in gradients))  # type: ignore[arg-type] # never empty
            scale = torch.clamp(limit / (norm + 1e-6), max=1.0)
            total = [t + g * scale for t, g in zip(total, gradients, strict=True)]
            losses.append(loss.detach())
        for p, t in zip(parameters, total, strict=True):
            p.grad = t / examples
        return torch.stack(losses).mean()

    def carried(self) -> dict[str, Tensor]:
        """Parameters, buffers and optimizer state by the names of a plan's inputs."""
        named = {f"param/{name}": p.detach() for name, p in self.model.named_parameters()}
        named |= {f"buffer/{name}": b.detach() for name, b in self.model.named_buffers()}
        for name, p in self._named.items():
            state = self.optimizer.state.get(p, {})
            for slot in self.plan.optimizer.slots:
                value = state.get(slot)
                named[f"state/{slot}/{name}"] = (
                    value.detach() if isinstance(value, Tensor) else torch.zeros_like(p)
                )
        named[STEP_COUNT] = torch.tensor(self.steps, dtype=torch.int64)
        return named


def evaluate_eagerly(step: Step, model: nn.Module, batch: dict[str, Tensor]) -> Arrays:
    """What an evaluation plan would put out, by output name."""
    model = copy.deepcopy(model).eval()
    examples = len(next(iter(batch.values())))
    with torch.no_grad(), plain_attention():
        loss = step.plan.loss(model, batch)
        metrics = {"loss": (loss * examples, examples), **step.plan.metrics(model, batch)}
    outputs = {}
    for name, (total, count) in metrics.items():
        outputs[f"metric/{name}/sum"] = np.asarray(float(torch.as_tensor(total)), dtype=np.float32)
        outputs[f"metric/{name}/count"] = np.asarray(float(torch.as_tensor(count)), dtype=np.float32)
    return outputs
