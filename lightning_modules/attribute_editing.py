"""What a user asks an editing network for: some attributes set, the others as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["target_attributes"]


def target_attributes(own: Tensor, names: list[str], edit: Mapping[str, bool]) -> Tensor:
    """Attributes after an edit.

    Args:
        own: before it, shape ``(B, A)``.
        names: of the columns.
        edit: what each named attribute is to be.

    Returns:
        Shape ``(B, A)``, a copy.

    Raises:
        ValueError: if a name is unknown.
    """
    unknown = sorted(edit.keys() - set(names))
    if unknown:
        raise ValueError(f"model.edit: {', '.join(unknown)} is not among the attributes {', '.join(names)}.")
    wanted = own.clone()
    for name, value in edit.items():
        wanted[:, names.index(name)] = float(value)
    return wanted
