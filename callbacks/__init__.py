"""What watches training and testing, and what a run leaves behind."""

from callbacks.bias_probe import BiasProbe
from callbacks.cross_generator_matrix import CrossGeneratorMatrix
from callbacks.embedding_outputs import EmbeddingMap, NeighbourSheet
from callbacks.embedding_writer import EmbeddingWriter
from callbacks.prediction_writer import PredictionWriter
from callbacks.run_directory import SaveRunConfig
from callbacks.seed_per_rank import SeedPerRank
from callbacks.spectrum_plots import SpectrumPlots
from callbacks.video_verdicts import VideoVerdicts

__all__ = [
    "BiasProbe",
    "CrossGeneratorMatrix",
    "EmbeddingMap",
    "EmbeddingWriter",
    "NeighbourSheet",
    "PredictionWriter",
    "SaveRunConfig",
    "SeedPerRank",
    "SpectrumPlots",
    "VideoVerdicts",
]
