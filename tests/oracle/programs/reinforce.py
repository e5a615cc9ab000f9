"""REINFORCE: actions drawn from a Categorical, returns, a policy loss by torch.cat(...).sum()."""

from collections import deque

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from common import filled, labels, numbers
from torch.distributions import Categorical

eps = np.finfo(np.float32).eps.item()


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1 = nn.Linear(4, 16)
        self.dropout = nn.Dropout(p=0.6)
        self.affine2 = nn.Linear(16, 2)
        self.saved_log_probs = []
        self.rewards = []

    def forward(self, x):
        x = self.affine1(x)
        x = self.dropout(x)
        x = F.relu(x)
        action_scores = self.affine2(x)
        return F.softmax(action_scores, dim=1)


class Environment:
    """A toy: the state moves by the action."""

    def __init__(self):
        self.seed = 0

    def reset(self):
        self.seed += 1
        self.state = numbers(4, seed=self.seed)
        return self.state, {}

    def step(self, action):
        self.state = self.state + 0.1 * (2 * action - 1)
        return self.state, 1.0 - abs(self.state[0]), self.state[0] > 5, False, {}


def select_action(policy, state, given):
    state = torch.from_numpy(state).double().unsqueeze(0)
    probs = policy(state)
    m = Categorical(probs)
    assert 0 <= m.sample().item() < 2
    action = torch.tensor([given])
    policy.saved_log_probs.append(m.log_prob(action))
    return action.item(), m.entropy()


def finish_episode(policy, optimizer):
    R = 0
    policy_loss = []
    returns = deque()
    for r in policy.rewards[::-1]:
        R = r + 0.99 * R
        returns.appendleft(R)
    returns = torch.tensor(returns)
    returns = (returns - returns.mean()) / (returns.std() + eps)
    for log_prob, R in zip(policy.saved_log_probs, returns):
        policy_loss.append(-log_prob * R)
    optimizer.zero_grad()
    policy_loss = torch.cat(policy_loss).sum()
    policy_loss.backward()
    optimizer.step()
    del policy.rewards[:]
    del policy.saved_log_probs[:]
    return policy_loss.item()


def main():
    torch.manual_seed(543)
    env, policy = Environment(), filled(Policy())
    policy.dropout.p = 0.0
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    running_reward, history = 10, []
    for i_episode in range(20):
        state, _ = env.reset()
        ep_reward = 0
        for given in labels(6, 2, seed=i_episode):
            action, entropy = select_action(policy, state, given)
            state, reward, done, _, _ = env.step(action)
            policy.rewards.append(reward)
            ep_reward += reward
            if done:
                break
        running_reward = 0.05 * ep_reward + (1 - 0.05) * running_reward
        history.append((finish_episode(policy, optimizer), running_reward, entropy.item()))
    return history, list(policy.parameters())
