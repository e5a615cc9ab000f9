"""PPO with two heads: advantages by GAE, minibatches of sampled indices, a clipped ratio."""

import numpy as np
import torch
import torch.nn as nn
from common import filled, labels, numbers
from torch.distributions import Categorical, Normal
from torch.utils.data.sampler import BatchSampler, SequentialSampler, SubsetRandomSampler


def layer_init(layer, std=np.sqrt(2), bias_const=0.0):
    torch.nn.init.orthogonal_(layer.weight, std)
    torch.nn.init.constant_(layer.bias, bias_const)
    return layer


class Agent(nn.Module):
    def __init__(self, obs, actions):
        super().__init__()
        self.critic = nn.Sequential(layer_init(nn.Linear(obs, 8)), nn.Tanh(),
                                    layer_init(nn.Linear(8, 1), std=1.0))
        self.actor = nn.Sequential(layer_init(nn.Linear(obs, 8)), nn.Tanh(),
                                   layer_init(nn.Linear(8, actions), std=0.01))
        self.actor_logstd = nn.Parameter(torch.zeros(1, 2))

    def get_value(self, x):
        return self.critic(x)

    def get_action_and_value(self, x, action=None):
        logits = self.actor(x)
        probs = Categorical(logits=logits)
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


def main():
    num_steps, num_envs = 6, 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    agent = filled(Agent(3, 4).to(device))
    optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-3, eps=1e-5)
    obs = torch.zeros((num_steps, num_envs, 3), dtype=torch.float64).to(device)
    actions = torch.zeros((num_steps, num_envs)).to(device)
    logprobs = torch.zeros((num_steps, num_envs), dtype=torch.float64).to(device)
    rewards, dones, values = torch.zeros_like(logprobs), torch.zeros_like(logprobs), None
    values = torch.zeros_like(rewards)
    report = []
    for update in range(1, 6):
        frac = 1.0 - (update - 1.0) / 5
        optimizer.param_groups[0]["lr"] = frac * 2.5e-3
        given = torch.as_tensor(labels(num_steps * num_envs, 4, update)).to(device)
        given = given.view(num_steps, num_envs)
        for step in range(num_steps):
            obs[step] = torch.Tensor(numbers(num_envs, 3, seed=step)).to(device)
            with torch.no_grad():
                action, logprob, _, value = agent.get_action_and_value(obs[step], given[step])
                values[step] = value.flatten()
            actions[step] = action
            logprobs[step] = logprob
            rewards[step] = torch.tensor(numbers(num_envs, seed=step)).to(device).view(-1)
        dones[2, 1] = 1.0
        with torch.no_grad():
            next_value = agent.get_value(obs[-1]).reshape(1, -1)
            advantages = torch.zeros_like(rewards).to(device)
            lastgaelam = 0
            for t in reversed(range(num_steps)):
                following = next_value if t == num_steps - 1 else values[t + 1]
                nonterminal = 1.0 - dones[t]
                delta = rewards[t] + 0.99 * following * nonterminal - values[t]
                advantages[t] = lastgaelam = delta + 0.99 * 0.95 * nonterminal * lastgaelam
            returns = advantages + values
        b_obs = obs.reshape((-1, 3))
        b_logprobs, b_actions = logprobs.reshape(-1), actions.reshape(-1)
        b_advantages, b_returns = advantages.reshape(-1), returns.reshape(-1)
        drawn = list(BatchSampler(SubsetRandomSampler(range(12)), 4, drop_last=True))
        assert sorted(sum(drawn, [])) == list(range(12))
        for mb_inds in BatchSampler(SequentialSampler(range(12)), 3, drop_last=False):
            _, newlogprob, entropy, newvalue = agent.get_action_and_value(
                b_obs[mb_inds], b_actions.long()[mb_inds])
            logratio = newlogprob - b_logprobs[mb_inds]
            ratio = logratio.exp()
            with torch.no_grad():
                approx_kl = ((ratio - 1) - logratio).mean()
                clipfrac = ((ratio - 1.0).abs() > 0.2).float().mean().item()
            mb_advantages = b_advantages[mb_inds]
            mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
            pg_loss = torch.max(-mb_advantages * ratio,
                                -mb_advantages * torch.clamp(ratio, 1 - 0.2, 1 + 0.2)).mean()
            v_loss = 0.5 * ((newvalue.view(-1) - b_returns[mb_inds]) ** 2).mean()
            prior = Normal(torch.zeros_like(agent.actor_logstd), agent.actor_logstd.exp())
            extra = prior.log_prob(torch.ones(1, 2).double()).sum(1).mean()
            loss = pg_loss - 0.01 * entropy.mean() + v_loss * 0.5 - 0.01 * extra
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        report.append((v_loss.item(), pg_loss.item(), approx_kl.item(), clipfrac))
    return report, list(agent.parameters())
