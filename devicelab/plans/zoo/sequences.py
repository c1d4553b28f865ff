"""Models of sequences: the next word from the last twenty."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor, nn

from devicelab.plans.plan import Batch
from devicelab.plans.zoo.vision import Classifier

__all__ = ["GRUClassifier", "TransformerClassifier"]


class _NextWord(Classifier):
    classes = 80
    length = 20

    def example_batch(self) -> Batch:
        """Sequences of word numbers, and the word after each."""
        generator = torch.Generator().manual_seed(7)
        words = torch.randint(self.classes, (64, self.length + 1), generator=generator)
        words[0, :2] = torch.tensor([0, self.classes - 1])
        words[:2, -1] = torch.tensor([0, self.classes - 1])
        return {"x": words[:, :-1].contiguous(), "label": words[:, -1].contiguous()}


class _GRU(nn.Module):
    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 16)
        self.gru = nn.GRU(16, 64, batch_first=True)
        self.score = nn.Linear(64, words)

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(words))
        scores: Tensor = self.score(states[:, -1])
        return scores


class GRUClassifier(_NextWord):
    """A gated recurrent unit (Cho et al. 2014)."""

    name = "gru"

    def module(self) -> nn.Module:
        """An embedding, one recurrent layer, one linear layer on its last state."""
        torch.manual_seed(0)
        return _GRU(self.classes)


class _Block(nn.Module):
    """Attention and two layers, each with layer norm in front (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        examples, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(examples, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(examples, length, width))
        change: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + change


class _Transformer(nn.Module):
    def __init__(self, words: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, words)

    def forward(self, words: Tensor) -> Tensor:
        x = self.blocks(self.embedding(words) + self.position)
        scores: Tensor = self.score(self.norm(x)[:, -1])
        return scores


class TransformerClassifier(_NextWord):
    """A causal transformer (Vaswani et al. 2017) of two layers."""

    name = "transformer"

    def module(self) -> nn.Module:
        """64 wide, four heads."""
        torch.manual_seed(0)
        return _Transformer(self.classes, self.length, width=64, heads=4, layers=2)
