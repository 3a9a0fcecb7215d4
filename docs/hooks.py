"""What MkDocs does to a page of the reference before it is written."""

from __future__ import annotations

import re

__all__ = ["on_page_content"]


def on_page_content(html: str, **_: object) -> str:
    """Show names that docstrings mark with a role, as in :class:`Trainer`, as plain code.

    Args:
        html: content of the page.
    """
    return re.sub(r":(?:class|func|meth|mod):(<code>)~?", r"\1", html)
