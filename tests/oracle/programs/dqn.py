"""DQN: a replay memory of tuples, a mask of final states, a target network, clamped gradients."""

import random
from collections import deque, namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from common import filled, numbers

Transition = namedtuple("Transition", ("state", "action", "next_state", "reward"))


class ReplayMemory:
    def __init__(self, capacity):
        self.memory = deque([], maxlen=capacity)

    def push(self, *args):
        self.memory.append(Transition(*args))

    def sample(self, batch_size):
        return random.sample(self.memory, batch_size)

    def __len__(self):
        return len(self.memory)


class DQN(nn.Module):
    def __init__(self, n_observations, n_actions):
        super().__init__()
        self.layer1 = nn.Linear(n_observations, 12)
        self.layer2 = nn.Linear(12, 12)
        self.layer3 = nn.Linear(12, n_actions)

    def forward(self, x):
        x = F.relu(self.layer1(x))
        x = F.relu(self.layer2(x))
        return self.layer3(x)


class Agent:
    def __init__(self, device):
        self.device, self.steps_done = device, 0
        self.policy_net = filled(DQN(4, 3)).to(device)
        self.target_net = DQN(4, 3).double().to(device)
        self.target_net.load_state_dict(self.policy_net.state_dict())
        self.optimizer = optim.RMSprop(self.policy_net.parameters(), lr=0.01)
        self.memory = ReplayMemory(50)

    def select_action(self, state):
        eps_threshold = 0.05 + 0.85 * 0.9 ** self.steps_done
        self.steps_done += 1
        if random.random() > eps_threshold:
            with torch.no_grad():
                return self.policy_net(state).max(1)[1].view(1, 1)
        return torch.tensor([[random.randrange(3)]], device=self.device, dtype=torch.long)

    def optimize_model(self):
        if len(self.memory) < 8:
            return None
        transitions = self.memory.sample(8)
        batch = Transition(*zip(*transitions))
        non_final_mask = torch.tensor(tuple(map(lambda s: s is not None,
                                                batch.next_state)),
                                      device=self.device, dtype=torch.bool)
        non_final_next_states = torch.cat([s for s in batch.next_state if s is not None])
        state_batch, action_batch = torch.cat(batch.state), torch.cat(batch.action)
        reward_batch = torch.cat(batch.reward)
        state_action_values = self.policy_net(state_batch).gather(1, action_batch)
        next_state_values = torch.zeros(8, device=self.device, dtype=torch.double)
        with torch.no_grad():
            next_state_values[non_final_mask] = self.target_net(non_final_next_states).max(1).values
        expected_state_action_values = (next_state_values * 0.9) + reward_batch
        loss = F.smooth_l1_loss(state_action_values, expected_state_action_values.unsqueeze(1))
        self.optimizer.zero_grad()
        loss.backward()
        for param in self.policy_net.parameters():
            param.grad.data.clamp_(-1, 1)
        self.optimizer.step()
        return loss.item()


def main():
    random.seed(1)
    agent = Agent(torch.device("cpu"))
    losses, chosen = [], []
    state = torch.tensor(numbers(4), dtype=torch.double).unsqueeze(0)
    for t in range(30):
        action = agent.select_action(state)
        chosen.append(action.item())
        reward = torch.tensor([numbers(1, seed=t)[0] + action.item()], dtype=torch.double)
        terminated = t % 7 == 6
        observation = numbers(4, seed=t + 1)
        next_state = None if terminated else torch.tensor(observation).unsqueeze(0)
        agent.memory.push(state, action, next_state, reward)
        state = torch.tensor(observation).unsqueeze(0)
        losses.append(agent.optimize_model() or 0.0)
        target, policy = agent.target_net.state_dict(), agent.policy_net.state_dict()
        for key in policy:
            target[key] = policy[key] * 0.05 + target[key] * (1 - 0.05)
        agent.target_net.load_state_dict(target)
    return losses, chosen, agent.target_net.state_dict(), list(agent.policy_net.parameters())
