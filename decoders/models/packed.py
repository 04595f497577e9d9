"""The forward of Llama-shaped networks on a CPU, in float32: the stock module's weights and
mathematics over rows laid end to end.

Nothing is padded: rows of different lengths, or of different parts of a canvas, share every
product. Attention takes each row by itself and reads keys and values where they are kept. Threads
take rows apart, a few hundred positions at a time, so that what a layer leaves stays in the cache
of the core that reads it.

Legend: B rows of a pass, Q positions fed, N positions of some rows, M of them wanted, W positions
wanted of each row, S slots, H heads, J key heads, G heads that share one, P places of a store with
slots end to end, D head size, E width, F inner width.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoders.models.forward import Llama, Product, Store
from decoders.models.rows import Rows, Steps, View, end_to_end, parted
from decoders.threads import side_by_side


def fits(network: Any) -> bool:
    """Whether the forward can compute a Llama-shaped network. One that is split over processes
    stays with the stock module, whose ranks sum in one order."""
    layers = network.base_model.layers
    products = [module for module in layers.modules() if type(module) is nn.Linear]
    return len(products) == 7 * len(layers) and all(
        parameter.dtype == torch.float32 for parameter in network.parameters()
    )


class Packed:
    """A `decoders.models.forward.Forward`."""

    is_fixed: ClassVar[bool] = False

    def __init__(self, network: Any) -> None:
        self._llama = llama = Llama(network, joined=False)
        self._cosines = torch.cat([llama.cosines, llama.cosines], dim=1)
        self._sines = torch.cat([-llama.sines, llama.sines], dim=1)

    @property
    def depth(self) -> int:
        return len(self._llama.layers)

    def room(self, slots: int, places: int) -> Tensor:
        """In memory the heads of a place lie together, as a product leaves them."""
        llama = self._llama
        found = llama.embedding.new_zeros(slots, places, llama.key_heads, llama.size)
        return found.transpose(1, 2)

    def __call__(
        self,
        tokens_BQ: Tensor,
        positions_BQ: Tensor,
        limits_BQ: Tensor,
        store: Store | None = None,
        slots_B: Tensor | None = None,
        places_BQ: Tensor | None = None,
        wanted_BW: Tensor | None = None,
        fed_B: Tensor | None = None,
    ) -> Tensor:
        rows, fed = tokens_BQ.shape
        counts = [fed] * rows if fed_B is None else fed_B.tolist()

        def run(part: slice) -> Tensor:
            kept = None
            if store is not None and slots_B is not None and places_BQ is not None:
                kept = store, slots_B[part], places_BQ[part]
            wanted = None if wanted_BW is None else wanted_BW[part]
            numbers = tokens_BQ[part], positions_BQ[part], limits_BQ[part]
            return self._states(end_to_end(*numbers, counts[part], kept, wanted))

        parts, is_even = parted(counts, torch.get_num_threads())
        found = side_by_side(run, parts) if is_even else [run(part) for part in parts]
        states_ME = found[0] if len(found) == 1 else torch.cat(found)
        if wanted_BW is not None or min(counts) == fed:
            return states_ME.view(rows, -1, states_ME.shape[1])
        states_BQE = states_ME.new_zeros(rows, fed, states_ME.shape[1])
        at = 0
        for row_QE, count in zip(states_BQE, counts, strict=True):
            row_QE[:count] = states_ME[at : at + count]
            at += count
        return states_BQE

    def _states(self, rows: Rows) -> Tensor:
        """Last hidden states of rows, or of their positions that are wanted, [M, E]."""
        llama, views = self._llama, rows.views
        states_NE = F.embedding(rows.tokens_N, llama.embedding)
        cosines_N1D = self._cosines[rows.positions_N][:, None]
        sines_N1D = self._sines[rows.positions_N][:, None]
        for n, layer in enumerate(llama.layers):
            normed_NE = self._norm(states_NE, layer.norm)
            q_NHD, k_NJD, v_NJD = (
                F.linear(normed_NE, *part).view(len(normed_NE), -1, llama.size)
                for part in layer.qkv
            )
            if layer.norms is not None:
                q_norm, k_norm, eps = layer.norms
                q_NHD = F.rms_norm(q_NHD, q_norm.shape, q_norm, eps)
                k_NJD = F.rms_norm(k_NJD, k_norm.shape, k_norm, eps)
            q_NHD = _rotated(q_NHD, cosines_N1D, sines_N1D)
            k_NJD = _rotated(k_NJD, cosines_N1D, sines_N1D)
            if rows.store is not None:
                k_NJD, v_NJD = _kept(rows, n, k_NJD, v_NJD)
            if rows.wanted_M is not None and n == self.depth - 1:
                # Nothing after the last layer's keys is read but the states that are wanted.
                q_NHD, states_NE = q_NHD[rows.wanted_M], states_NE[rows.wanted_M]
                views = rows.last
            if isinstance(views, Steps):
                assert rows.store is not None
                mixed_NE = self._stepped(views, q_NHD, *rows.store.layers[n])
            else:
                mixed_NE = self._attended(views, q_NHD, k_NJD, v_NJD)
            _add_product(states_NE, mixed_NE, layer.out)
            normed_NE = self._norm(states_NE, layer.inner_norm)
            gate, up = layer.gate_up
            gate_NF = F.silu(F.linear(normed_NE, *gate), inplace=True)
            _add_product(states_NE, gate_NF.mul_(F.linear(normed_NE, *up)), layer.down)
        return self._norm(states_NE, llama.final_norm)

    def _norm(self, states_NE: Tensor, weight_E: Tensor) -> Tensor:
        return F.rms_norm(states_NE, weight_E.shape, weight_E, self._llama.eps)

    def _stepped(
        self, steps: Steps, q_NHD: Tensor, keys_SJKD: Tensor, values_SJKD: Tensor
    ) -> Tensor:
        """`_attended` of rows of one position: heads that share their keys are its positions."""
        shape = (len(steps.bias_S11K), keys_SJKD.shape[1], -1, q_NHD.shape[2])
        q_SHD = q_NHD.new_zeros(shape[0], *q_NHD.shape[1:]).index_copy_(0, steps.row_N, q_NHD)
        mixed_SJGD = F.scaled_dot_product_attention(
            q_SHD.view(shape),
            keys_SJKD[steps.slots, :, : steps.keys],
            values_SJKD[steps.slots, :, : steps.keys],
            steps.bias_S11K,
            scale=self._llama.scale,
        )
        return mixed_SJGD.flatten(1)[steps.row_N]

    def _attended(
        self, views: Sequence[View], q_NHD: Tensor, keys_PJD: Tensor, values_PJD: Tensor
    ) -> Tensor:
        """What each position takes from the values that it sees, [N, H * D]."""
        mixed_NHD = torch.empty_like(q_NHD)
        grouped = q_NHD.shape[1] // keys_PJD.shape[1]
        for first, stop, begin, keys, bias_QK in views:
            end = begin + keys
            q_QHD = q_NHD[first:stop]
            k_JKD = keys_PJD[begin:end].transpose(0, 1)
            v_JKD = values_PJD[begin:end].transpose(0, 1)
            if grouped == 1:
                found_HQD = _attend(q_QHD.transpose(0, 1), k_JKD, v_JKD, bias_QK, self._llama.scale)
                mixed_NHD[first:stop] = found_HQD.transpose(0, 1)
                continue
            # Heads that share their keys are taken as more positions of one head.
            q_QJGD = q_QHD.view(len(q_QHD), -1, grouped, q_QHD.shape[2])
            q_JRD = q_QJGD.permute(1, 2, 0, 3).flatten(1, 2)
            bias_RK = None if bias_QK is None else bias_QK.repeat(grouped, 1)
            found_JRD = _attend(q_JRD, k_JKD, v_JKD, bias_RK, self._llama.scale)
            found_JGQD = found_JRD.reshape(len(found_JRD), grouped, stop - first, -1)
            mixed_NHD[first:stop] = found_JGQD.permute(2, 0, 1, 3).flatten(1, 2)
        return mixed_NHD.flatten(1)


def _attend(
    q_HQD: Tensor, k_HKD: Tensor, v_HKD: Tensor, bias_QK: Tensor | None, scale: float
) -> Tensor:
    return F.scaled_dot_product_attention(
        q_HQD[None], k_HKD[None], v_HKD[None], bias_QK, scale=scale
    )[0]


def _rotated(x_NHD: Tensor, cosines_N1D: Tensor, sines_N1D: Tensor) -> Tensor:
    """Each half of a head turned against the other; the first one's sines are negated."""
    half = x_NHD.shape[2] // 2
    turned_NHD = x_NHD * cosines_N1D
    turned_NHD[..., :half].addcmul_(x_NHD[..., half:], sines_N1D[..., :half])
    turned_NHD[..., half:].addcmul_(x_NHD[..., :half], sines_N1D[..., half:])
    return turned_NHD


def _add_product(states_NE: Tensor, x_NF: Tensor, part: Product) -> None:
    states_NE.addmm_(x_NF, part.weight.t())
    if part.bias is not None:
        states_NE.add_(part.bias)


def _kept(rows: Rows, n: int, k_NJD: Tensor, v_NJD: Tensor) -> tuple[Tensor, Tensor]:
    """Puts keys and values where they are kept; returns those of all slots, [P, J, D]."""
    assert rows.store is not None
    keys_PJD, values_PJD = (
        kept.transpose(1, 2).view(-1, *k_NJD.shape[1:]) for kept in rows.store.layers[n]
    )
    if len(rows.kept_N) < len(k_NJD):
        k_NJD, v_NJD = k_NJD[rows.kept_N], v_NJD[rows.kept_N]
    keys_PJD.index_copy_(0, rows.kept_P, k_NJD)
    values_PJD.index_copy_(0, rows.kept_P, v_NJD)
    return keys_PJD, values_PJD
