"""What watches training and testing, and what a run leaves behind."""

from callbacks.cross_generator_matrix import CrossGeneratorMatrix
from callbacks.prediction_writer import PredictionWriter
from callbacks.run_directory import SaveRunConfig
from callbacks.seed_per_rank import SeedPerRank

__all__ = ["CrossGeneratorMatrix", "PredictionWriter", "SaveRunConfig", "SeedPerRank"]
