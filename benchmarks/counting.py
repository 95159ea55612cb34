"""What a piece of work does, whatever it takes: floating-point operations, and bytes to and from memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, sdpa_backward_flop_count, sdpa_flop_count

COUNTED = {
    torch.ops.aten.baddbmm_: lambda added, a, b, *_, **__: bmm_flop(a, b),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""What torch's counter leaves out: a product in place, and attention on a CPU."""


def count(run: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations and moved bytes of one call made of PyTorch's operators alone.

    These counters do not see what kernels do: call it where none are installed.
    """
    with Traffic() as traffic:
        flops = count_flops(run)
    return flops, traffic.bytes


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of one call: 2mnk a matrix product, the like a convolution, nothing for the rest.

    Attention is counted over all keys, masked or not.
    """
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        run()
    return counter.get_total_flops()


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write: every tensor once that goes in, every one that comes out.

    Views cost nothing. A gather is taken to read as much as it writes, not the whole table; what an operator leaves
    in a cache for the next one is not known here, so that a fused program moves less.
    """

    FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    GATHERS = ("index", "index_select", "embedding", "gather")
    OVERWRITES = ("copy_", "fill_", "zero_")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and add what it moved."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        changed = _tensors(
            [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        )
        read = _tensors(given)
        known = {t.untyped_storage()._cdata for t in read}
        made = [t for t in _tensors(result) if t.untyped_storage()._cdata not in known]  # a view made nothing
        wrote, took = _size(changed + made), _size(read)
        if name in self.GATHERS:
            took = wrote
        elif name in self.OVERWRITES:
            took -= _size(changed)
        if wrote and name not in self.FREE:
            self.bytes += wrote + took
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _size(tensors: list[Tensor]) -> int:
    """Bytes, of expanded tensors those that are there."""
    return sum(min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in tensors)
