"""A CycleGAN: two of each network, one optimizer for both generators, buffers of old images."""

import itertools
import random

import torch
import torch.nn as nn
from common import filled, numbers


class ResidualBlock(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(in_features, in_features, 3),
            nn.InstanceNorm2d(in_features), nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1), nn.Conv2d(in_features, in_features, 3),
            nn.InstanceNorm2d(in_features))

    def forward(self, x):
        return x + self.block(x)


class GeneratorResNet(nn.Module):
    def __init__(self, channels=2, width=3):
        super().__init__()
        model = [nn.ReflectionPad2d(channels), nn.Conv2d(channels, width, 2 * channels + 1),
                 nn.InstanceNorm2d(width), nn.ReLU(inplace=True)]
        model += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        model += [ResidualBlock(2 * width)]
        model += [nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, padding=1)]
        model += [nn.ReflectionPad2d(channels), nn.Conv2d(width, channels, 2 * channels + 1),
                  nn.Tanh()]
        self.model = nn.Sequential(*model)

    def forward(self, x):
        return self.model(x)


class Discriminator(nn.Module):
    def __init__(self, channels=2):
        super().__init__()
        self.output_shape = (1, 4, 4)
        self.model = nn.Sequential(
            nn.Conv2d(channels, 4, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True),
            nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(4, 1, 4, padding=1))

    def forward(self, img):
        return self.model(img)


class ReplayBuffer:
    def __init__(self, max_size=3):
        self.max_size, self.data = max_size, []

    def push_and_pop(self, data):
        to_return = []
        for element in data.data:
            element = torch.unsqueeze(element, 0)
            if len(self.data) < self.max_size:
                self.data.append(element)
                to_return.append(element)
            elif random.uniform(0, 1) > 0.5:
                i = random.randint(0, self.max_size - 1)
                to_return.append(self.data[i].clone())
                self.data[i] = element
            else:
                to_return.append(element)
        return torch.cat(to_return)


class LambdaLR:
    def __init__(self, n_epochs, decay_start_epoch):
        self.n_epochs, self.decay_start_epoch = n_epochs, decay_start_epoch

    def step(self, epoch):
        over = max(0, epoch - self.decay_start_epoch)
        return 1.0 - over / (self.n_epochs - self.decay_start_epoch)


def main():
    random.seed(0)
    G_AB, G_BA, D_A, D_B = map(filled, (GeneratorResNet(), GeneratorResNet(), Discriminator(),
                                        Discriminator()))
    criterion_GAN, criterion_cycle = torch.nn.MSELoss(), torch.nn.L1Loss()
    optimizer_G = torch.optim.Adam(itertools.chain(G_AB.parameters(), G_BA.parameters()), lr=2e-3,
                                   eps=1e-4)
    optimizer_D = torch.optim.Adam([*D_A.parameters(), *D_B.parameters()], lr=2e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer_G, lr_lambda=LambdaLR(20, 5).step)
    fake_buffer = ReplayBuffer()
    losses = []
    for epoch in range(20):
        real_A = torch.tensor(numbers(2, 2, 8, 8, seed=epoch)).tanh()
        real_B = torch.tensor(numbers(2, 2, 8, 8, seed=epoch + 100)).tanh()
        valid = torch.ones((real_A.size(0), *D_A.output_shape), dtype=torch.double)
        fake = torch.zeros_like(valid)
        optimizer_G.zero_grad()
        loss_identity = (criterion_cycle(G_BA(real_A), real_A)
                         + criterion_cycle(G_AB(real_B), real_B)) / 2
        fake_B, fake_A = G_AB(real_A), G_BA(real_B)
        loss_GAN = (criterion_GAN(D_B(fake_B), valid) + criterion_GAN(D_A(fake_A), valid)) / 2
        loss_cycle = criterion_cycle(G_BA(fake_B), real_A) + criterion_cycle(G_AB(fake_A), real_B)
        loss_G = loss_GAN + 10.0 * loss_cycle / 2 + 5.0 * loss_identity
        loss_G.backward()
        optimizer_G.step()
        optimizer_D.zero_grad()
        loss_D = criterion_GAN(D_A(real_A), valid) + criterion_GAN(D_B(real_B), valid)
        loss_D += criterion_GAN(D_A(fake_A.detach()), fake)
        loss_D += criterion_GAN(D_B(fake_buffer.push_and_pop(fake_B).detach()), fake)
        loss_D.backward()
        optimizer_D.step()
        scheduler.step()
        losses.append((loss_D.item(), loss_G.item(), optimizer_G.param_groups[0]["lr"]))
    return losses, list(G_AB.parameters()), list(D_B.parameters())
