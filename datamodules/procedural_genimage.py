"""The procedural GenImage as a datamodule: the whole real pipeline on files that anyone can make."""

from __future__ import annotations

from typing import Any

from datamodules.gen_image import GenImageDataModule
from datamodules.synthetic import DEFAULT_GENERATORS, write_procedural_genimage

__all__ = ["ProceduralGenImageDataModule"]


class ProceduralGenImageDataModule(GenImageDataModule):
    """GenImage with drawn scenes in place of photographs; the files are written when they are not there yet.

    See :func:`datamodules.synthetic.write_procedural_genimage` for what they hold.

    Args:
        root: folder of the files, created by the first run.
        train: training images per class (ai, nature); a mapping gives them to the named generators only.
        val: images per class and generator in the published ``val`` folders, our test sets.
        generators: the generators of the world.
        world_seed: seed of the files.
        kwargs: as for :class:`GenImageDataModule`.
    """

    def __init__(
        self,
        root: str = "data/procedural_genimage",
        train: int | dict[str, int] = 300,
        val: int = 100,
        generators: list[str] | None = None,
        world_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, **kwargs)
        self.metadata = self.root / "metadata.csv"  # written by `prepare_data`
        self.train_images, self.val_images = train, val
        self.generators = generators or list(DEFAULT_GENERATORS)
        self.world_seed = world_seed

    def prepare_data(self) -> None:
        """Write the files, then scan them."""
        if not self._predicting():
            write_procedural_genimage(
                self.root,
                train=self.train_images,
                val=self.val_images,
                generators=self.generators,
                seed=self.world_seed,
            )
        super().prepare_data()
