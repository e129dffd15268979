"""The DLRM as a torch module over looked-up rows: the definition that every other form is compared with.

Knows no table and no optimizer: it takes (B, F, D) rows, so that any table can feed it. Invariant: parameters are
named and shaped as in `DenseLayout`.
Source: Naumov et al. 2019, arXiv 1906.00091, section 2 (dot interaction, without the vectors' own squares).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_contract.dense_layout import AlignmentEntry, DenseLayout, LinearEntry
from model_contract.schema import ModelSchema

__all__ = ["Alignment", "Dlrm"]


class Alignment(nn.Module):
    """A linear map of each slot's pooled rows with folded batch norm; see `model_contract.row_alignment`."""

    def __init__(self, entry: AlignmentEntry) -> None:
        super().__init__()
        each = (entry.slots, entry.dim)
        self.weight = nn.Parameter(torch.eye(entry.dim).repeat(entry.slots, 1, 1))
        self.scale = nn.Parameter(torch.ones(each))
        self.shift = nn.Parameter(torch.zeros(each))
        self.mean = nn.Parameter(torch.zeros(each), requires_grad=False)
        self.variance = nn.Parameter(torch.ones(each), requires_grad=False)
        self.batches = nn.Parameter(torch.zeros(1), requires_grad=False)

    def project(self, emb: Tensor) -> Tensor:
        """What the statistics are of: z f32 (B, F, D)."""
        return torch.einsum("bfi,fij->bfj", emb, self.weight)

    def forward(self, emb: Tensor) -> Tensor:
        """The aligned rows y f32 (B, F, D) of pooled rows f32 (B, F, D)."""
        return self.project(emb) * self.scale + self.shift


class Dlrm(nn.Module):
    """Bottom MLP on dense features, dot products of all pairs of vectors, top MLP to one logit."""

    def __init__(self, schema: ModelSchema) -> None:
        super().__init__()
        self.layout = DenseLayout(schema)
        self.bottom = nn.ModuleList(_linear(entry) for entry in self.layout.bottom)
        self.top = nn.ModuleList(_linear(entry) for entry in self.layout.top)
        self.align = Alignment(self.layout.align) if self.layout.align else None
        self._pair_rows, self._pair_columns = np.tril_indices(self.layout.vectors, k=-1)

    def forward(self, emb: Tensor, dense: Tensor) -> Tensor:
        """Logits.

        Args:
            emb: f32 (B, F, D), pooled rows.
            dense: f32 (B, n), transformed dense features, ignored when the schema has none.

        Returns:
            f32 (B,); bf16 under autocast.
        """
        if self.align is not None:
            emb = self.align(emb)
        vectors, parts = emb, []
        if self.bottom:
            x = dense
            for layer in self.bottom:
                x = torch.relu(layer(x))
            vectors = torch.cat((x.unsqueeze(1), emb.to(x.dtype)), dim=1)  # (B, 1 + F, D)
            parts.append(x)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))  # (B, V, V)
        x = torch.cat((*parts, dots[:, self._pair_rows, self._pair_columns]), dim=1)
        for layer in self.top[:-1]:
            x = torch.relu(layer(x))
        return self.top[-1](x).squeeze(1)  # type: ignore[no-any-return]

    def load_flat(self, flat: NDArray[np.float32]) -> None:
        """Takes the parameters f32 (P,) of a flat vector, copying them.

        Raises:
            SchemaError: the vector has another length or dtype.
        """
        named = dict(self.named_parameters())
        with torch.no_grad():
            for tensor in self.layout.split(flat):
                named[tensor.name].copy_(torch.from_numpy(np.array(tensor.values)))

    def flat(self) -> NDArray[np.float32]:
        """The parameters as a new flat vector f32 (P,)."""
        named = dict(self.named_parameters())
        return np.concatenate([named[e.name].detach().float().numpy().ravel() for e in self.layout.entries])


def _linear(entry: LinearEntry) -> nn.Linear:
    return nn.Linear(entry.inputs, entry.outputs)
