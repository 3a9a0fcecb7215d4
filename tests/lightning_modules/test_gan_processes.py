"""GANs by the command line: killed and resumed, and in two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = [
    *("--model.image_size=32", "--model.latent_size=4", "--model.generator_width=4", "--model.critic_width=4"),
    *("--data=datamodules.clustering_data.Digits", "--data.image_size=32", "--data.train=120", "--data.num_workers=0"),
    *("--trainer.accelerator=cpu", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"),
]
ENCODER = [
    *("--model.encoder=ContrastiveEmbedding", "--model.encoder.backbone=small_cnn"),
    *("--model.encoder.backbone_kwargs={width: 4}", "--model.encoder.image_size=32", "--model.encoder_epochs=1"),
]
SLOW = """
import time
from lightning.pytorch import Callback


class Slow(Callback):
    def on_train_batch_end(self, *args):
        time.sleep(0.1)
"""
# Batch statistics are those of a process, as always in PyTorch; SyncBatchNorm joins them on GPUs only. Here they are
# joined by hand, so that everything else can be compared. The losses of both players are written down.
JOINT = """
import json

import torch
import torch.distributed.nn.functional as joint
from torch import nn

from lightning_modules import LatentConditionedGAN


class JointBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
        if torch.distributed.is_initialized():
            moments = joint.all_reduce(moments) / torch.distributed.get_world_size()
        mean, deviation = moments[0], (moments[1] - moments[0].square() + self.eps).sqrt()
        x = (x - mean[:, None, None]) / deviation[:, None, None]
        return x * self.weight[:, None, None] + self.bias[:, None, None] if self.affine else x


class JointGAN(LatentConditionedGAN):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for network in (self.generator, self.average):
            for layer in network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.__class__ = JointBatchNorm
        self.losses = []

    def critic_terms(self, batch):
        return self.noted(super().critic_terms(batch))

    def generator_terms(self, batch):
        return self.noted(super().generator_terms(batch))

    def noted(self, terms):
        self.losses.append(float(sum(terms.values())))
        return terms

    def on_fit_end(self):
        with open(f"losses_{self.trainer.world_size}_{self.global_rank}.json", "w") as file:
            json.dump(self.losses, file)
"""


def weights(experiment: str) -> dict[str, torch.Tensor]:
    (file,) = Path("runs", experiment).glob("*/checkpoints/last.ckpt")
    return torch.load(file, weights_only=True)["state_dict"]


def command(model: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "fit", f"--model={model}", *RECIPE, *arguments]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), "."])}


@pytest.mark.slow
def test_a_killed_gan_resumes_to_the_same_weights(environment):
    gan = command("LatentConditionedGAN", *ENCODER, "--data.batch_size=20", "--trainer.max_epochs=5")
    subprocess.run([*gan, "--experiment=whole"], check=True, env=environment, capture_output=True)
    Path("slow.py").write_text(SLOW)
    killed = subprocess.Popen(
        [*gan, "--experiment=killed", "--trainer.callbacks+=slow.Slow"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    reached = -1
    while reached < 2:  # the first epoch in which both players move
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
        for log in Path("runs/killed").glob("*/checkpoints/last.ckpt"):
            try:
                reached = torch.load(log, weights_only=True)["epoch"]
            except (EOFError, OSError, RuntimeError):
                continue  # it is being written
    time.sleep(0.3)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert reached < 4
    subprocess.run([*gan, "--experiment=killed", "--ckpt_path=last"], check=True, env=environment, capture_output=True)
    whole, resumed = weights("whole"), weights("killed")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.slow
def test_two_processes_play_like_one_with_the_joint_batch(environment):
    Path("joint_gan.py").write_text(JOINT)
    gan = ["--model.condition=label", "--trainer.max_epochs=2"]
    gan += ["--model.gradient_penalty_weight=1.0", "--model.critic_steps_per_generator=2", "--model.jitter=0.1"]
    # Adam would blow up the rounding of gradients that are zero in truth, those of biases before a normalisation.
    for player in ("generator", "critic"):
        gan += [f"--model.{player}_optimizer=torch.optim.SGD", f"--model.{player}_optimizer.init_args.lr=1e-3"]
    gan += ["-c", str(ROOT / "configs/trainer/ddp.yaml"), "--trainer.accelerator=cpu"]
    gan += ["--trainer.strategy=ddp_find_unused_parameters_true"]
    for devices, batch in ((1, 20), (2, 10)):
        arguments = [f"--experiment=of{devices}", f"--trainer.devices={devices}", f"--data.batch_size={batch}"]
        done = subprocess.run(
            command("joint_gan.JointGAN", *gan, *arguments),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one = torch.tensor(json.loads(Path("losses_1_0.json").read_text()))
    two = torch.tensor([json.loads(Path(f"losses_2_{rank}.json").read_text()) for rank in range(2)]).mean(0)
    assert len(one) == 18  # 12 steps of the critic and 6 of the generator
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-3)
    whole, parts = weights("of1"), weights("of2")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: name + text)
