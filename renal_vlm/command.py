"""Entry of the command `renal-vlm`."""

from experiments.__main__ import command as main

__all__ = ["main"]
