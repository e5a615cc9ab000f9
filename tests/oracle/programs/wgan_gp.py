"""WGAN-GP: a gradient penalty by autograd.grad, Variables, and types named by a variable."""

import argparse

import numpy as np
import torch
import torch.autograd as autograd
import torch.nn as nn
from common import filled, numbers
from torch.autograd import Variable

parser = argparse.ArgumentParser()
parser.add_argument("--n_critic", type=int, default=2)
parser.add_argument("--latent_dim", type=int, default=5)
parser.add_argument("--b1", type=float, default=0.5)
opt = parser.parse_args([])

img_shape = (1, 4, 4)
cuda = True if torch.cuda.is_available() else False
Tensor = torch.cuda.DoubleTensor if cuda else torch.DoubleTensor


class Generator(nn.Module):
    def __init__(self):
        super().__init__()

        def block(in_feat, out_feat, normalize=True):
            layers = [nn.Linear(in_feat, out_feat)]
            if normalize:
                layers.append(nn.BatchNorm1d(out_feat, 0.8))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            return layers

        self.model = nn.Sequential(
            *block(opt.latent_dim, 8, normalize=False),
            *block(8, 12),
            nn.Linear(12, int(np.prod(img_shape))),
            nn.Tanh()
        )

    def forward(self, z):
        img = self.model(z)
        return img.view(img.shape[0], *img_shape)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(int(np.prod(img_shape)), 12),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(12, 1),
        )

    def forward(self, img):
        return self.model(img.view(img.shape[0], -1))


def compute_gradient_penalty(D, real_samples, fake_samples, seed):
    """The squared distance of the norms of gradients from 1, between real and fake images."""
    alpha = Tensor(numbers(real_samples.size(0), 1, 1, 1, seed=seed))
    interpolates = (alpha * real_samples + ((1 - alpha) * fake_samples)).requires_grad_(True)
    d_interpolates = D(interpolates)
    fake = Variable(Tensor(real_samples.shape[0], 1).fill_(1.0), requires_grad=False)
    gradients = autograd.grad(
        outputs=d_interpolates,
        inputs=interpolates,
        grad_outputs=fake,
        create_graph=True,
        retain_graph=True,
        only_inputs=True,
    )[0]
    gradients = gradients.view(gradients.size(0), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def main():
    generator, discriminator = filled(Generator()), filled(Discriminator())
    if cuda:
        generator.cuda()
        discriminator.cuda()
    optimizer_G = torch.optim.Adam(generator.parameters(), lr=0.01, betas=(opt.b1, 0.999))
    optimizer_D = torch.optim.Adam(discriminator.parameters(), lr=0.01, betas=(opt.b1, 0.999))
    losses = []
    for i in range(20):
        imgs = torch.from_numpy(numbers(6, *img_shape, seed=i))
        real_imgs = Variable(imgs.type(Tensor))
        optimizer_D.zero_grad()
        z = Variable(Tensor(numbers(imgs.shape[0], opt.latent_dim, seed=i)))
        fake_imgs = generator(z)
        penalty = compute_gradient_penalty(discriminator, real_imgs.data, fake_imgs.data, i)
        real_validity, fake_validity = discriminator(real_imgs), discriminator(fake_imgs)
        d_loss = -torch.mean(real_validity) + torch.mean(fake_validity) + 10 * penalty
        d_loss.backward()
        optimizer_D.step()
        optimizer_G.zero_grad()
        if i % opt.n_critic == 0:
            g_loss = -torch.mean(discriminator(generator(z)))
            g_loss.backward()
            optimizer_G.step()
        losses.append((d_loss.item(), g_loss.item(), penalty.data))
    return losses, list(generator.parameters()), list(discriminator.parameters())
