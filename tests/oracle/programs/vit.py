"""A vision transformer that reshapes by hand: class token, pre-norm, mixup, decay groups."""

import torch
from common import filled, labels, numbers
from torch import nn


def pair(t):
    return t if isinstance(t, tuple) else (t, t)


def trunc_normal_(tensor, std):
    with torch.no_grad():
        return tensor.normal_(0, std).clamp_(-2 * std, 2 * std)


class PreNorm(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x, **kwargs):
        return self.fn(self.norm(x), **kwargs)


class Attention(nn.Module):
    def __init__(self, dim, heads=2, dim_head=4):
        super().__init__()
        self.heads, self.scale = heads, dim_head ** -0.5
        self.attend = nn.Softmax(dim=-1)
        self.to_qkv = nn.Linear(dim, dim_head * heads * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim_head * heads, dim), nn.Dropout(0.0))

    def forward(self, x):
        b, n, _, h = *x.shape, self.heads
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = map(lambda t: t.reshape(b, n, h, -1).permute(0, 2, 1, 3), qkv)
        dots = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
        attn = self.attend(dots)
        out = torch.einsum("bhij,bhjd->bhid", attn, v)
        out = out.transpose(1, 2).flatten(2)
        return self.to_out(out)


class ViT(nn.Module):
    def __init__(self, *, image_size, patch_size, num_classes, dim, depth, mlp_dim):
        super().__init__()
        (image_height, image_width), (ph, pw) = pair(image_size), pair(patch_size)
        assert image_height % ph == 0 and image_width % pw == 0
        num_patches = (image_height // ph) * (image_width // pw)
        self.patch_size = ph
        self.to_patch_embedding = nn.Linear(2 * ph * pw, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, num_patches + 1, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        trunc_normal_(self.cls_token, std=.02)
        self.layers = nn.ModuleList([])
        for _ in range(depth):
            ff = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))
            self.layers.append(nn.ModuleList([PreNorm(dim, Attention(dim)), PreNorm(dim, ff)]))
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    @torch.jit.ignore if hasattr(torch, "jit") and hasattr(torch.jit, "ignore") else lambda f: f
    def no_weight_decay(self):
        return {"pos_embedding", "cls_token"}

    def forward(self, img):
        p = self.patch_size
        b, c, _h, _w = img.shape
        patches = img.unfold(2, p, p).unfold(3, p, p)
        patches = patches.permute(0, 2, 3, 4, 5, 1).contiguous().view(b, -1, p * p * c)
        x = self.to_patch_embedding(patches)
        cls_tokens = self.cls_token.expand(b, -1, -1)
        x = torch.cat((cls_tokens, x), dim=1)
        x += self.pos_embedding[:, :(x.size(1))]
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return self.mlp_head(x[:, 0])


def param_groups(model, weight_decay, skip_list=()):
    decay, no_decay = [], []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        if len(param.shape) == 1 or name.endswith(".bias") or name in skip_list:
            no_decay.append(param)
        else:
            decay.append(param)
    return [{"params": no_decay, "weight_decay": 0.0},
            {"params": decay, "weight_decay": weight_decay}]


def mixup_data(x, y, lam, index):
    mixed_x = lam * x + (1 - lam) * x[index, :]
    return mixed_x, y, y[index]


def main():
    model = filled(ViT(image_size=8, patch_size=4, num_classes=3, dim=6, depth=2, mlp_dim=8))
    groups = param_groups(model, 0.05, model.no_weight_decay())
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 0.5],
                                                                            dtype=torch.float64))
    x, y = torch.from_numpy(numbers(6, 2, 8, 8)), torch.from_numpy(labels(6, 3))
    history = []
    for step in range(20):
        lam = 0.5 + 0.02 * step
        inputs, targets_a, targets_b = mixup_data(x, y, lam, torch.arange(5, -1, -1))
        outputs = model(inputs)
        loss = lam * criterion(outputs, targets_a) + (1 - lam) * criterion(outputs, targets_b)
        optimizer.zero_grad()
        loss.backward()
        total_norm = torch.norm(torch.stack([torch.norm(p.grad.detach(), 2.0)
                                             for p in model.parameters()]), 2.0)
        optimizer.step()
        scheduler.step(step + 1)
        history.append((loss.item(), total_norm.item(), scheduler.get_last_lr()[0]))
    n_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return history, n_parameters, model(x).argmax(-1), list(model.parameters())
