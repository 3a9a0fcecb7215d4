"""Procedural data sets, drawn with NumPy and SciPy alone so that worker processes start fast."""

from datamodules.synthetic.generators import GENERATORS, Generator
from datamodules.synthetic.genimage import DEFAULT_GENERATORS, write_procedural_genimage

__all__ = ["DEFAULT_GENERATORS", "GENERATORS", "Generator", "write_procedural_genimage"]
