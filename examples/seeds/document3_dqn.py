"""Deep Q-learning balances the pole of CartPole-v1 (document 3, section 3, example 3).

    pip install 'allgrad[examples]'        # brings gymnasium, the successor of gym
    python examples/seeds/document3_dqn.py --episodes 200

The document's network and names, and what its unfinished loop lacks: exploration that fades, a
replay memory, a target network that follows slowly, the temporal-difference loss
(r + gamma max Q'(s', a') - Q(s, a)), and no bootstrap beyond the fall of the pole.
Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; the target is
double Q-learning's (van Hasselt et al. 2016).
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from typing import Any

import numpy as np

import allgrad as torch
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import nn, optim

learning_rate = 0.001
gamma = 0.99
batch_size = 64
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class DQN(nn.Module):
    """The value of each action in a state."""

    def __init__(self, num_inputs: int, num_actions: int) -> None:
        super(DQN, self).__init__()  # noqa: UP008 - the document's spelling
        self.layers = nn.Sequential(
            nn.Linear(num_inputs, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, num_actions),
        )

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.layers(state)


def train(episodes: int, goal: float, seed: int) -> list[float]:
    """Play until ten games earn `goal` on average, learning after each step; reward per game."""
    try:
        import gymnasium as gym  # noqa: PLC0415 - so that --help works without it
    except ModuleNotFoundError:
        raise SystemExit("this example needs gymnasium: pip install 'allgrad[examples]'") from None

    torch.manual_seed(seed)
    random.seed(seed)
    env = gym.make("CartPole-v1")
    inputs, actions = int(env.observation_space.shape[0]), int(env.action_space.n)
    dqn, target = DQN(inputs, actions).to(device), DQN(inputs, actions).to(device)
    target.load_state_dict(dqn.state_dict())
    optimizer = optim.Adam(dqn.parameters(), lr=learning_rate)
    memory: deque[Any] = deque(maxlen=20_000)
    rewards: list[float] = []
    steps = 0

    for i_episode in range(episodes):
        observation, _ = env.reset(seed=seed + i_episode)
        done = False
        total_reward = 0.0
        while not done:
            if random.random() < max(0.02, 1 - steps / 800):  # explore less and less
                action = random.randrange(actions)
            else:
                with torch.no_grad():
                    action = dqn(torch.FloatTensor(observation).to(device)).max(0)[1].item()
            observation_, reward, fell, timed_out, _ = env.step(action)
            memory.append((observation, action, reward, observation_, float(fell)))
            done = fell or timed_out
            total_reward += float(reward)
            observation = observation_
            steps += 1
            if len(memory) >= 200:
                learn(dqn, target, optimizer, random.sample(memory, batch_size))
        rewards.append(total_reward)
        average = np.mean(rewards[-10:])
        if (i_episode + 1) % 10 == 0:
            print(f"Episode {i_episode + 1}/{episodes} | Avg Reward {average:.2f}", flush=True)
        if len(rewards) >= 10 and average >= goal:
            break
    env.close()
    return rewards


def learn(dqn: DQN, target: DQN, optimizer: optim.Optimizer, sample: list[Any]) -> None:
    """One step of gradient descent on remembered moves; `target` follows by one percent."""
    columns = [np.asarray(column) for column in zip(*sample, strict=True)]
    states = torch.FloatTensor(columns[0]).to(device)
    moves = torch.LongTensor(columns[1]).to(device)
    reward, next_states, fell = (torch.FloatTensor(c).to(device) for c in columns[2:])
    q_values = dqn(states).gather(1, moves.unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        best = dqn(next_states).argmax(1, keepdim=True)
        max_q = target(next_states).gather(1, best).squeeze(1)
        wanted = reward + gamma * max_q * (1 - fell)
    dqn_loss = F.smooth_l1_loss(q_values, wanted)
    optimizer.zero_grad()
    dqn_loss.backward()
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), dqn.parameters(), strict=True):
            slow.mul_(0.99).add_(fast, alpha=0.01)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=200, help="games to play at most (200)")
    parser.add_argument("--goal", type=float, default=300, help="average of 10 to stop at (300)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, games, exploration (0)")
    options = parser.parse_args(argv)
    rewards = train(options.episodes, options.goal, options.seed)
    first, last = float(np.mean(rewards[:10])), float(np.mean(rewards[-10:]))
    print(f"{len(rewards)} games; 10 games earn {first:.0f} at first, {last:.0f} at last (of 500)")
    return {"games": len(rewards), "first": first, "last": last}


if __name__ == "__main__":
    main()
