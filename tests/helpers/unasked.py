"""Finds, on the CPU, what would make the host wait for a GPU: a number that is read, a mask that selects, a tensor made
of Python's numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING = {
    "item",
    "tolist",
    "cpu",
    "numpy",
    "nonzero",
    "argwhere",
    "unique",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "bincount",
    "tensor",
}
OPERATORS = {
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "lift_fresh",
    "bincount",
}
"""Of ATen, also where C++ calls them; ``lift_fresh`` is how ``torch.tensor`` begins, which copies from memory that isn't pinned."""


def _selects(indices: Any) -> bool:
    parts = indices if isinstance(indices, list | tuple) else [indices]
    return any(isinstance(one, Tensor) and (one.dtype in (torch.bool, torch.uint8) or one.ndim == 0) for one in parts)


class _Functions(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in READING or (name in ("__getitem__", "__setitem__") and _selects(args[1])):
            raise AssertionError(f"a GPU would be waited for: {name}")
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operator.overloadpacket.__name__
        if name in OPERATORS or (
            name.startswith("index") and len(args) > 1 and isinstance(args[1], list) and _selects(args[1])
        ):
            raise AssertionError(f"a GPU would be waited for: {operator}")
        return operator(*args, **(kwargs or {}))


@contextmanager
def unasked() -> Iterator[None]:
    """Raise AssertionError for what would wait; also in backward."""
    with _Functions(), _Operators():
        yield
