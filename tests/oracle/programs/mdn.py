"""A mixture density network, with distributions and a loss by logsumexp."""

import math

import torch
import torch.distributions as D
import torch.nn as nn
from common import filled, numbers
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence

ONEOVERSQRT2PI = 1.0 / math.sqrt(2 * math.pi)


class MDN(nn.Module):
    def __init__(self, in_features, out_features, num_gaussians):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.num_gaussians = num_gaussians
        self.pi = nn.Sequential(nn.Linear(in_features, num_gaussians), nn.Softmax(dim=1))
        self.sigma = nn.Linear(in_features, out_features * num_gaussians)
        self.mu = nn.Linear(in_features, out_features * num_gaussians)

    def forward(self, minibatch):
        pi = self.pi(minibatch)
        sigma = torch.exp(self.sigma(minibatch))
        sigma = sigma.view(-1, self.num_gaussians, self.out_features)
        mu = self.mu(minibatch)
        mu = mu.view(-1, self.num_gaussians, self.out_features)
        return pi, sigma, mu


def gaussian_probability(sigma, mu, target):
    target = target.unsqueeze(1).expand_as(sigma)
    ret = ONEOVERSQRT2PI * torch.exp(-0.5 * ((target - mu) / sigma) ** 2) / sigma
    return torch.prod(ret, 2)


def mdn_loss(pi, sigma, mu, target):
    prob = pi * gaussian_probability(sigma, mu, target)
    nll = -torch.log(torch.sum(prob, dim=1))
    return torch.mean(nll)


def sample(pi, sigma, mu):
    pis = pi.argmax(dim=1).view(pi.size(0), 1, 1)
    gaussian_noise = torch.zeros((sigma.size(2), sigma.size(0)), requires_grad=False).double()
    variance_samples = sigma.gather(1, pis.expand(-1, -1, sigma.size(2))).detach().squeeze(1)
    mean_samples = mu.detach().gather(1, pis.expand(-1, -1, sigma.size(2))).squeeze()
    return (gaussian_noise.transpose(0, 1) * variance_samples + mean_samples.unsqueeze(-1)
            .view_as(variance_samples))


def main():
    model = filled(nn.Sequential(nn.Linear(1, 6), nn.Tanh(), MDN(6, 2, 3)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x = torch.tensor(numbers(15, 1))
    y = torch.cat([x.sin(), x ** 2], 1) + 0.1 * torch.tensor(numbers(15, 2))
    losses = []
    for _ in range(20):
        model.zero_grad()
        pi, sigma, mu = model(x)
        loss = mdn_loss(pi, sigma, mu, y)
        mix = Categorical(pi)
        comp = D.Independent(Normal(mu, sigma), 1)
        gmm = MixtureSameFamily(mix, comp)
        assert gmm.sample((4,)).shape == (4, 15, 2)
        same = -gmm.log_prob(y).mean()
        prior = Normal(torch.zeros_like(mu), torch.ones_like(sigma))
        kl = kl_divergence(Normal(mu, sigma), prior).sum(-1).mean()
        total = 0.5 * (loss + same) + 0.01 * kl - 0.01 * mix.entropy().mean()
        total.backward()
        optimizer.step()
        losses.append([loss.item(), same.item(), kl.item()])
    return losses, sample(*model(x)), gmm.mean, gmm.variance, list(model.parameters())
