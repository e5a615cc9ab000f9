"""A diffusion model: noise schedules as buffers, time embeddings, EMA weights, sampling."""

import copy
import math

import torch
from common import filled, numbers
from torch import nn
from torch.nn import functional as F


def exists(x):
    return x is not None


def default(val, d):
    if exists(val):
        return val
    return d() if callable(d) else d


def extract(a, t, x_shape):
    b, *_ = t.shape
    out = a.gather(-1, t)
    return out.reshape(b, *((1,) * (len(x_shape) - 1)))


def cosine_beta_schedule(timesteps, s=0.008):
    steps = timesteps + 1
    x = torch.linspace(0, timesteps, steps, dtype=torch.float64)
    alphas_cumprod = torch.cos(((x / timesteps) + s) / (1 + s) * math.pi * 0.5) ** 2
    alphas_cumprod = alphas_cumprod / alphas_cumprod[0]
    betas = 1 - (alphas_cumprod[1:] / alphas_cumprod[:-1])
    return torch.clip(betas, 0, 0.999)


class SinusoidalPosEmb(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        device = x.device
        half_dim = self.dim // 2
        emb = math.log(10000) / (half_dim - 1)
        emb = torch.exp(torch.arange(half_dim, device=device).double() * -emb)
        emb = x[:, None] * emb[None, :]
        return torch.cat((emb.sin(), emb.cos()), dim=-1)


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x, *args, **kwargs):
        return self.fn(x, *args, **kwargs) + x


class Block(nn.Module):
    def __init__(self, dim, time_dim, groups=2):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, dim * 2))
        self.proj = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = nn.GroupNorm(groups, dim)
        self.act = nn.SiLU()

    def forward(self, x, time_emb=None):
        scale_shift = None
        if exists(self.mlp) and exists(time_emb):
            time_emb = self.mlp(time_emb)
            time_emb = time_emb[(...,) + (None,) * 2]
            scale_shift = time_emb.chunk(2, dim=1)
        x = self.norm(self.proj(x))
        if exists(scale_shift):
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.act(x)


class Net(nn.Module):
    def __init__(self, dim=4):
        super().__init__()
        self.init_conv = nn.Conv2d(1, dim, 3, padding=1)
        self.time_mlp = nn.Sequential(SinusoidalPosEmb(dim), nn.Linear(dim, 8), nn.GELU(),
                                      nn.Linear(8, 8))
        self.blocks = nn.ModuleList([])
        for _ in range(2):
            self.blocks.append(nn.ModuleList([Block(dim, 8), Residual(Block(dim, 8))]))
        self.final_conv = nn.Conv2d(dim, 1, 1)

    def forward(self, x, time):
        x = self.init_conv(x)
        r = x.clone()
        t = self.time_mlp(time)
        for first, second in self.blocks:
            x = first(x, t)
            x = second(x, t)
        return self.final_conv(x + r)


class GaussianDiffusion(nn.Module):
    def __init__(self, model, timesteps=8):
        super().__init__()
        self.model, self.num_timesteps = model, timesteps
        betas = cosine_beta_schedule(timesteps)
        alphas = 1.0 - betas
        alphas_cumprod = torch.cumprod(alphas, dim=0)
        alphas_cumprod_prev = F.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
        register_buffer = lambda name, val: self.register_buffer(name, val.to(torch.float64))
        register_buffer("betas", betas)
        register_buffer("sqrt_alphas_cumprod", torch.sqrt(alphas_cumprod))
        register_buffer("sqrt_one_minus_alphas_cumprod", torch.sqrt(1.0 - alphas_cumprod))
        register_buffer("sqrt_recip_alphas", torch.rsqrt(alphas))
        variance = betas * (1.0 - alphas_cumprod_prev) / (1.0 - alphas_cumprod)
        register_buffer("posterior_log_variance", torch.log(variance.clamp(min=1e-20)))

    @property
    def device(self):
        return self.betas.device

    def q_sample(self, x_start, t, noise=None):
        noise = default(noise, lambda: torch.randn_like(x_start))
        return (extract(self.sqrt_alphas_cumprod, t, x_start.shape) * x_start
                + extract(self.sqrt_one_minus_alphas_cumprod, t, x_start.shape) * noise)

    def forward(self, img, t, noise):
        x = self.q_sample(x_start=img, t=t, noise=noise)
        loss = F.smooth_l1_loss(self.model(x, t), noise, reduction="none")
        return loss.flatten(1).mean(dim=1).mean()

    @torch.no_grad()
    def sample(self, shape):
        img = torch.from_numpy(numbers(*shape)).to(self.device)
        for i in reversed(range(0, self.num_timesteps)):
            t = torch.full((shape[0],), i, device=self.device, dtype=torch.long)
            beta = extract(self.betas, t, img.shape)
            scale = extract(self.sqrt_one_minus_alphas_cumprod, t, img.shape)
            mean = extract(self.sqrt_recip_alphas, t, img.shape) * (
                img - beta / scale * self.model(img, t))
            noise = torch.from_numpy(numbers(*shape, seed=i)) if i > 0 else 0.0
            img = mean + (0.5 * extract(self.posterior_log_variance, t, img.shape)).exp() * noise
        return img.clamp_(-1, 1)


class EMA:
    def __init__(self, beta):
        self.beta = beta

    def update_model_average(self, ma_model, current_model):
        for current, ma in zip(current_model.parameters(), ma_model.parameters()):
            old_weight, up_weight = ma.data, current.data
            ma.data = old_weight * self.beta + (1 - self.beta) * up_weight


def main():
    model = filled(Net())
    diffusion = GaussianDiffusion(model)
    ema, ema_model = EMA(0.9), copy.deepcopy(diffusion)
    ema_model.requires_grad_(False)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=5e-3, betas=(0.9, 0.99), eps=1e-6)
    losses = []
    for step in range(20):
        img = torch.tensor(numbers(3, 1, 6, 6, seed=step)).clamp(-1, 1)
        t = torch.tensor([step % 8, (step + 3) % 8, (3 * step) % 8], device=img.device).long()
        noise = torch.tensor(numbers(3, 1, 6, 6, seed=step + 100))
        (diffusion(img, t, noise) / 2).backward()
        if step % 2 == 1:
            nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update_model_average(ema_model, diffusion)
        losses.append(diffusion(img, t, noise).item())
    return losses, ema_model.sample((2, 1, 6, 6)), ema_model.state_dict()
