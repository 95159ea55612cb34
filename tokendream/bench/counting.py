"""What a piece of work does, whatever it takes: floating-point operations, and bytes to and from memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""What torch's counter knows of attention on a GPU, for its CPU kernel."""


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of one call: 2mnk a matrix product, the like a convolution, nothing for the rest.

    Attention is counted over all keys, masked or not.
    """
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        run()
    return counter.get_total_flops()


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write: every tensor once that goes in, every one that comes out.

    Views cost nothing. A gather is taken to read as much as it writes, not the whole table; what an operator leaves
    in a cache for the next one is not known here, so that a fused program moves less.
    """

    GATHERS = ("index", "index_select", "embedding", "gather")
    FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and add what it moved."""
        result = func(*args, **(kwargs or {}))
        name, mutable = func._schema.name.partition("::")[2], func._schema.is_mutable
        read, written = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), result))
        sources = {t.untyped_storage()._cdata for t in read}
        if name not in self.FREE and (mutable or any(t.untyped_storage()._cdata not in sources for t in written)):
            wrote = sum(map(_size, written))
            self.bytes += wrote + (wrote if name in self.GATHERS else sum(map(_size, read)))
        return result


def _size(x: Tensor) -> int:
    """Bytes of a tensor, of an expanded one those that are there."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
