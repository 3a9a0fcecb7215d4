"""Spectra of image files against the rows of a published feature table.

Run ``python benchmarks/spectrum_parity.py IMAGES TABLE.npz``: a folder of the authors' JPEGs, and the table made from
their pickle (see ``datamodules/feature_pickles.py``). Goal for the 1000 generated faces and the CelebA table: every
image is nearest to a row of its own, at a distance below 1e-9.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist

from datamodules.luma import luma_plane
from datamodules.scan import list_images
from datamodules.spectrum_data import read_feature_table
from functional.spectrum import radial_log_spectrum


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("table", type=Path)
    options = parser.parse_args()
    rows, table = read_feature_table(options.table)
    fakes = table.numpy()[rows["label"] == 1]
    paths = list_images(options.images)
    planes = [torch.from_numpy(luma_plane(options.images / path)).double() for path in paths]
    spectra = np.stack([radial_log_spectrum(plane, fakes.shape[1], relative=True).numpy() for plane in planes])
    distances = cdist(spectra, fakes)
    nearest = distances.argmin(axis=1)
    print(f"{len(paths)} images, {len(fakes)} fake rows of {fakes.shape[1]} features")
    print(f"different nearest rows: {len(set(nearest.tolist()))}")
    print(f"largest distance to the nearest row: {distances.min(axis=1).max():.1e}")


if __name__ == "__main__":
    main()
