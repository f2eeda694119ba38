"""Training steps of the usual networks: our kernels serve all of it, and nobody waits."""

from __future__ import annotations

import os

import pytest
from support.emulated_gpu.state import counts

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import kernel_counts, nn, optim

pytestmark = pytest.mark.usefixtures("gpu")

EMULATED = os.environ.get("ALLGRAD_TEST_GPU") != "1"
TOKENS = 20


class Sequence(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 16)
        self.layers = getattr(nn, kind)(16, 32, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(32, TOKENS)

    def forward(self, x):
        return self.head(self.layers(self.embedding(x))[0])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.place = nn.Embedding(TOKENS, 32), nn.Embedding(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.RMSNorm(32), nn.Linear(32, TOKENS)

    def forward(self, x):
        steps = x.shape[1]
        y = self.embedding(x) + self.place(ag.arange(steps, device=x.device))
        mask = nn.Transformer.generate_square_subsequent_mask(steps, device=x.device)
        return self.head(self.norm(self.layers(y, mask=mask)))


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 10)),
    )


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.LayerNorm(64), nn.GELU(),
                         nn.Linear(64, 10))  # fmt: skip


NETWORKS = {
    "convolutional": (convolutional, lambda p: optim.SGD(p, 0.1, momentum=0.9)),
    "perceptron": (perceptron, lambda p: optim.RMSprop(p, 0.01)),
    "lstm": (lambda: Sequence("LSTM"), lambda p: optim.Adam(p)),
    "gru": (lambda: Sequence("GRU"), lambda p: optim.Adam(p)),
    "transformer": (Transformer, lambda p: optim.AdamW(p)),
}


@pytest.mark.parametrize("half", [None, ag.float16, ag.bfloat16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_step(name, half):
    make, optimizer_of = NETWORKS[name]
    ag.manual_seed(0)
    net = make().cuda()
    optimizer = optimizer_of(net.parameters())
    if isinstance(net, nn.Sequential):
        x, target = ag.randn(8, 3, 16, 16, device="cuda"), ag.randint(0, 10, (8,), device="cuda")
    else:
        x = target = ag.randint(0, TOKENS, (4, 8), device="cuda")
    losses = []
    for _ in range(3):
        kernel_counts.reset()
        before = counts["synchronisations"]
        optimizer.zero_grad()
        with ag.autocast("cuda", dtype=half or ag.float16, enabled=half is not None):
            y = net(x)
            loss = F.cross_entropy(y.reshape(-1, y.shape[-1]), target.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if EMULATED:
            assert counts["synchronisations"] == before
        losses.append(loss.item())
    assert kernel_counts.fallback_counts() == {}
    assert kernel_counts.fast_counts()["cross_entropy_backward"] == 1
    assert losses[2] < losses[0]
