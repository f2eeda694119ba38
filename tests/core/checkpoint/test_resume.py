"""A run that is interrupted anywhere and resumed ends with the bits of one that was not."""

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn, optim
from allgrad.checkpoint import CheckpointManager
from allgrad.utils.data import DataLoader, TensorDataset

SAMPLES, BATCH, EPOCHS = 30, 4, 3  # 8 steps an epoch, the last batch is short
OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda params: optim.AdamW(params, lr=0.01, amsgrad=True),
}


class Run:
    """A small training with everything that has a state."""

    def __init__(self, optimizer, workers):
        rng = np.random.default_rng(0)
        images = ag.from_numpy(rng.standard_normal((SAMPLES, 1, 6, 6)).astype(np.float32))
        labels = ag.from_numpy(rng.integers(0, 3, SAMPLES))
        self.loader = DataLoader(TensorDataset(images, labels), BATCH, shuffle=True, **workers)
        self.model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.scheduler = optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.epoch = self.steps = 0

    def parts(self):
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "loader": self.loader,
        }

    def train(self, stop_at=None, manager=None):
        """Train to the end, or save and stop in front of step `stop_at`."""
        while self.epoch < EPOCHS:
            for images, labels in self.loader:
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(images), labels).backward()
                self.optimizer.step()
                self.scheduler.step()
                self.steps += 1
                if self.steps == stop_at:
                    manager.save(step=self.steps, epoch=self.epoch, **self.parts())
                    return
            self.epoch += 1

    def weights(self):
        state = {k: v.numpy().copy() for k, v in self.model.state_dict().items()}
        state["random"] = ag.rand(4).numpy()
        return state


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("workers", [{}, {"prefetch_factor": 2}], ids=["inline", "thread"])
@pytest.mark.parametrize("stop_at", [1, 7, 8, 13, 23])
def test_resumed_run_ends_with_the_same_bits(tmp_path, optimizer, workers, stop_at):
    ag.manual_seed(1)
    whole = Run(optimizer, workers)
    whole.train()
    expected = whole.weights()

    ag.manual_seed(1)
    manager = CheckpointManager(tmp_path)
    Run(optimizer, workers).train(stop_at, manager)

    ag.manual_seed(77)  # the new process begins somewhere else
    ag.rand(5)
    resumed = Run(optimizer, workers)
    checkpoint = manager.load_latest(**resumed.parts())
    resumed.epoch, resumed.steps = checkpoint.epoch, checkpoint.step
    resumed.train()
    assert resumed.steps == whole.steps
    found = resumed.weights()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
