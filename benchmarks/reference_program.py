"""The published DLRM program's own operations, as the peer of DLRM's benchmark setting.

What `dlrm_s_pytorch.py` does on a CPU: `EmbeddingBag` by sum with sparse gradients, MLPs of `Linear` and `ReLU`, dots
by `bmm`, mean square error, SGD; in fp32, with torch's own threads. Only time is measured: labels are coins.
Source: Naumov et al. 2019, arXiv 1906.00091, section 4.
"""

import time

import torch

__all__ = ["ReferenceProgram"]


def _layers(widths: tuple[int, ...], last: torch.nn.Module) -> torch.nn.Sequential:
    parts: list[torch.nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        parts += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1], last)


class ReferenceProgram:
    """Tables of `rows` rows each, MLPs and optimizer, ready to train.

    Args:
        tables: how many.
        rows: of each.
        bottom: widths, the dense features first and the embeddings' width last.
        top: widths behind the interaction.
    """

    def __init__(self, tables: int, rows: int, bottom: tuple[int, ...], top: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self._rows, self._inputs, self._dim = rows, bottom[0], bottom[-1]
        self._tables = [torch.nn.EmbeddingBag(rows, self._dim, mode="sum", sparse=True) for _ in range(tables)]
        self._pairs = torch.tril_indices(tables + 1, tables + 1, -1)
        self._bottom = _layers(bottom, torch.nn.ReLU())
        self._top = _layers((self._dim + self._pairs.shape[1], *top), torch.nn.Sigmoid())
        modules = (*self._tables, self._bottom, self._top)
        self._optimizer = torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.01)

    def rate(self, lookups: int, batches: int, size: int) -> float:
        """Samples per second in batches of `size` with `lookups` random rows of every table; one goes before."""
        generator = torch.Generator().manual_seed(1)
        offsets = torch.arange(size) * lookups
        dense, labels = torch.randn(size, self._inputs), torch.randint(0, 2, (size, 1)).float()
        drawn = [
            [torch.randint(0, self._rows, (size * lookups,), generator=generator) for _ in self._tables]
            for _ in range(2)
        ]
        begin = 0.0
        for number in range(batches + 1):
            if number == 1:
                begin = time.perf_counter()
            self._learn(dense, drawn[number % 2], offsets, labels)
        return batches * size / (time.perf_counter() - begin)

    def _learn(
        self, dense: torch.Tensor, indices: list[torch.Tensor], offsets: torch.Tensor, labels: torch.Tensor
    ) -> None:
        vector = self._bottom(dense)
        pooled = [table(rows, offsets) for table, rows in zip(self._tables, indices, strict=True)]
        together = torch.stack([vector, *pooled], 1)
        dots = torch.bmm(together, together.transpose(1, 2))[:, self._pairs[0], self._pairs[1]]
        loss = torch.nn.functional.mse_loss(self._top(torch.cat([vector, dots], 1)), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
