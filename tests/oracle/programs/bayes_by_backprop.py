"""Bayes by backprop: weights with means and deviations, priors in log space, KL over batches."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from common import numbers
from torch.nn import Parameter
from torch.nn.modules.module import Module

PI, SIGMA_1, SIGMA_2 = 0.5, float(np.exp(-0.0)), float(np.exp(-6))


class Gaussian:
    def __init__(self, mu, rho):
        self.mu, self.rho = mu, rho

    @property
    def sigma(self):
        return torch.log1p(torch.exp(self.rho))

    def sample(self, epsilon):
        return self.mu + self.sigma * epsilon

    def log_prob(self, input):
        return (-np.log(np.sqrt(2 * np.pi)) - torch.log(self.sigma)
                - ((input - self.mu) ** 2) / (2 * self.sigma ** 2)).sum()


class ScaleMixtureGaussian:
    def __init__(self, pi, sigma1, sigma2):
        self.pi = pi
        self.gaussian1 = torch.distributions.Normal(0, sigma1)
        self.gaussian2 = torch.distributions.Normal(0, sigma2)

    def log_prob(self, input):
        prob1 = torch.exp(self.gaussian1.log_prob(input))
        prob2 = torch.exp(self.gaussian2.log_prob(input))
        return torch.log(self.pi * prob1 + (1 - self.pi) * prob2).sum()


class BayesianLinear(Module):
    __constants__ = ["in_features", "out_features"]

    def __init__(self, in_features, out_features):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        self.weight_mu = Parameter(torch.DoubleTensor(numbers(*shape)) * 0.2)
        self.weight_rho = Parameter(torch.DoubleTensor(*shape).fill_(-4))
        self.bias_mu = nn.Parameter(torch.empty(out_features, dtype=torch.float64).zero_())
        self.bias_rho = nn.Parameter(torch.full((out_features,), -4.0, dtype=torch.float64))
        self.prior = ScaleMixtureGaussian(PI, SIGMA_1, SIGMA_2)
        self.log_prior, self.log_variational_posterior, self.draws = 0, 0, 0

    def reset_parameters(self):
        stdv = 1.0 / np.sqrt(self.weight_mu.size(1))
        self.weight_mu.data.uniform_(-stdv, stdv)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def forward(self, input, sample=False):
        weight, bias = self.weight_mu, self.bias_mu
        if self.training or sample:
            self.draws += 1
            w, b = Gaussian(weight, self.weight_rho), Gaussian(bias, self.bias_rho)
            weight = w.sample(torch.from_numpy(numbers(*weight.shape, seed=self.draws)))
            bias = b.sample(torch.from_numpy(numbers(*bias.shape, seed=self.draws)))
            self.log_prior = self.prior.log_prob(weight) + self.prior.log_prob(bias)
            self.log_variational_posterior = w.log_prob(weight) + b.log_prob(bias)
        return F.linear(input, weight, bias)


class BayesianNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = BayesianLinear(4, 8)
        self.l2 = BayesianLinear(8, 3)

    def forward(self, x, sample=False):
        x = F.relu(self.l1(x.view(-1, 4), sample))
        return F.log_softmax(self.l2(x, sample), dim=1)

    def sample_elbo(self, input, target, num_batches, samples=2):
        outputs = torch.zeros(samples, input.size(0), 3).to(input)
        log_priors, log_variational_posteriors = torch.zeros(samples).to(input), []
        for i in range(samples):
            outputs[i] = self(input, sample=True)
            log_priors[i] = self.l1.log_prior + self.l2.log_prior
            log_variational_posteriors.append(self.l1.log_variational_posterior
                                              + self.l2.log_variational_posterior)
        log_prior = log_priors.mean()
        log_variational_posterior = torch.stack(log_variational_posteriors).mean()
        nll = F.nll_loss(outputs.mean(0), target, reduction="sum")
        loss = (log_variational_posterior - log_prior) / num_batches + nll
        return loss, log_prior, log_variational_posterior, nll


def main():
    torch.set_default_dtype(torch.float64)
    net = BayesianNetwork()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    data = torch.from_numpy(numbers(24, 4))
    target = data[:, :3].argmax(1)
    history = []
    for step in range(20):
        net.train()
        rows = torch.arange(8) + 8 * (step % 3)
        net.zero_grad()
        loss, *parts = net.sample_elbo(data[rows], target.index_select(0, rows), 3)
        loss.backward()
        optimizer.step()
        history.append([loss.item(), *(p.item() for p in parts)])
    net.eval()
    with torch.no_grad():
        pred = net(data).max(1, keepdim=True)[1]
    correct = pred.eq(target.view_as(pred)).sum()
    return history, pred, correct, net.state_dict()
