"""A character transformer that learns to write Python from Python's own standard library.

    python examples/char_transformer.py                    # one rank
    allgrad run -n 2 examples/char_transformer.py          # two ranks of this host
    mpiexec -n 2 python examples/char_transformer.py       # the same under any MPI launcher

The text is the source of a few modules that come with every Python. The network reads 64
characters and learns to predict each one's successor; it begins at about 4.6 nats per character
(96 characters, none likelier than the others) and, after half a minute, writes words of its own.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import string
import textwrap

import numpy as np

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import Tensor, ddp, nn, optim

ALPHABET = "\n" + "".join(sorted(set(string.printable) - set(string.whitespace))) + " "


def corpus() -> np.ndarray:
    """The source of some modules as indices into the alphabet; other characters are left out."""
    text = "".join(inspect.getsource(module) for module in (argparse, statistics, textwrap))
    place = {character: i for i, character in enumerate(ALPHABET)}
    return np.array([place[c] for c in text if c in place])


class CharacterTransformer(nn.Module):
    """Indices (N, L) -> scores (N, L, characters) of each one's successor."""

    def __init__(self, context: int, features: int, heads: int, layers: int) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(len(ALPHABET), features)
        self.position = nn.Embedding(context, features)
        layer = nn.TransformerEncoderLayer(
            features, heads, 4 * features, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(features))
        self.head = nn.Linear(features, len(ALPHABET))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next characters; no position sees a later one."""
        steps = x.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(steps)
        features = self.embedding(x) + self.position(ag.arange(steps))
        return self.head(self.layers(features, causal, is_causal=True))

    def write(self, start: str, count: int, rng: np.random.Generator) -> str:
        """`start` and `count` characters more, each drawn from the predicted distribution."""
        indices = [ALPHABET.index(c) for c in start]
        with ag.no_grad():
            for _ in range(count):
                scores = self(ag.tensor([indices[-self.context :]]))[0, -1]
                chances = F.softmax(scores / 0.7, dim=0).double().numpy()
                indices.append(int(rng.choice(len(ALPHABET), p=chances / chances.sum())))
        return "".join(ALPHABET[i] for i in indices)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6, help="of 50 batches each (6)")
    parser.add_argument("--batch-size", type=int, default=16, help="texts per rank and step (16)")
    parser.add_argument("--context", type=int, default=64, help="characters of a text (64)")
    parser.add_argument("--features", type=int, default=96, help="size of a character (96)")
    parser.add_argument("--heads", type=int, default=4, help="of attention (4)")
    parser.add_argument("--layers", type=int, default=3, help="of the transformer (3)")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate (0.003)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank = ddp.get_rank()
    ag.manual_seed(options.seed)  # the same start on every rank
    rng = np.random.default_rng((options.seed, rank))  # but texts of its own
    text = corpus()
    network = CharacterTransformer(options.context, options.features, options.heads, options.layers)
    model = ddp.DistributedDataParallel(network)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr)

    first = None
    for epoch in range(1, options.epochs + 1):
        sums = {"loss": 0.0, "batches": 0}
        for _ in range(50):
            starts = rng.integers(0, len(text) - options.context - 1, options.batch_size)
            batch = ag.tensor(np.stack([text[s : s + options.context + 1] for s in starts]))
            optimizer.zero_grad()
            scores = model(batch[:, :-1])
            loss = F.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            first = loss.item() if first is None else first
            sums["loss"] += loss.item()
            sums["batches"] += 1
        total = ddp.reduce_sum(sums)
        mean_loss = total["loss"] / total["batches"]
        if rank == 0:
            print(f"epoch {epoch}: {mean_loss:.3f} nats per character")

    if rank == 0:
        sample = network.write("\n    def ", 200, np.random.default_rng(options.seed))
        print(f"sample:{sample}")
    return {"first_loss": first or 0.0, "loss": mean_loss}


if __name__ == "__main__":
    main()
