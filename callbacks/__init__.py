"""What watches training and testing, and what a run leaves behind."""

from callbacks.adversarial_training import AdversarialTraining
from callbacks.bias_probe import BiasProbe
from callbacks.corruption_benchmark import CorruptionBenchmark
from callbacks.cross_generator_matrix import CrossGeneratorMatrix
from callbacks.edit_writer import EditWriter
from callbacks.embedding_outputs import EmbeddingMap, NeighbourSheet
from callbacks.embedding_writer import EmbeddingWriter
from callbacks.hessian_spectrum import HessianSpectrum
from callbacks.loss_landscape import LossLandscape
from callbacks.prediction_writer import PredictionWriter
from callbacks.robustness_indicators import RobustnessIndicators
from callbacks.run_directory import SaveRunConfig
from callbacks.sample_grid import SampleGrid
from callbacks.seed_per_rank import SeedPerRank
from callbacks.spectrum_plots import SpectrumPlots
from callbacks.trajectory_recorder import TrajectoryRecorder
from callbacks.video_verdicts import VideoVerdicts
from callbacks.weight_average import WeightAverage

__all__ = [
    "AdversarialTraining",
    "BiasProbe",
    "CorruptionBenchmark",
    "CrossGeneratorMatrix",
    "EditWriter",
    "EmbeddingMap",
    "EmbeddingWriter",
    "HessianSpectrum",
    "LossLandscape",
    "NeighbourSheet",
    "PredictionWriter",
    "RobustnessIndicators",
    "SampleGrid",
    "SaveRunConfig",
    "SeedPerRank",
    "SpectrumPlots",
    "TrajectoryRecorder",
    "VideoVerdicts",
    "WeightAverage",
]
