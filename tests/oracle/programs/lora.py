"""Low-rank adapters: layers replaced by name, frozen weights, saved without the base, merged."""

import io
import math

import torch
import torch.nn as nn
from common import filled, labels, numbers


class LoRALayer:
    def __init__(self, r, lora_alpha, merge_weights):
        self.r, self.lora_alpha = r, lora_alpha
        self.merged, self.merge_weights = False, merge_weights


class LoRALinear(nn.Linear, LoRALayer):
    def __init__(self, in_features, out_features, r=2, lora_alpha=4, merge_weights=True, **kwargs):
        nn.Linear.__init__(self, in_features, out_features, **kwargs)
        LoRALayer.__init__(self, r=r, lora_alpha=lora_alpha, merge_weights=merge_weights)
        if r > 0:
            self.lora_A = nn.Parameter(self.weight.new_zeros((r, in_features)))
            self.lora_B = nn.Parameter(self.weight.new_zeros((out_features, r)))
            self.scaling = self.lora_alpha / self.r
            self.weight.requires_grad = False
        self.reset_parameters()

    def reset_parameters(self):
        nn.Linear.reset_parameters(self)
        if hasattr(self, "lora_A"):
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
            nn.init.zeros_(self.lora_B)

    def train(self, mode=True):
        nn.Linear.train(self, mode)
        if self.merge_weights and self.merged == mode and self.r > 0:
            sign = -1 if mode else 1
            self.weight.data += sign * (self.lora_B @ self.lora_A) * self.scaling
            self.merged = not mode
        return self

    def forward(self, x):
        result = nn.functional.linear(x, self.weight, bias=self.bias)
        if self.r > 0 and not self.merged:
            result += (x @ self.lora_A.transpose(0, 1) @ self.lora_B.transpose(0, 1)) * self.scaling
        return result


def replace_linears(module, r):
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and not isinstance(child, LoRALinear):
            new = LoRALinear(child.in_features, child.out_features, r=r,
                             bias=child.bias is not None)
            new.double()
            new.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, new)
        else:
            replace_linears(child, r)


def mark_only_lora_as_trainable(model, bias="none"):
    for n, p in model.named_parameters():
        if "lora_" not in n:
            p.requires_grad = False
    if bias == "all":
        for n, p in model.named_parameters():
            if "bias" in n:
                p.requires_grad = True


def lora_state_dict(model):
    return {k: v for k, v in model.state_dict().items() if "lora_" in k}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.blocks = nn.ModuleDict({
            "first": nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 6)),
            "second": nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 6))})
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7, bias=False)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks.values():
            x = x + block(self.norm(x))
        return self.head(x)


def main():
    model = filled(Model())
    base = {k: v.clone() for k, v in model.state_dict().items()}
    replace_linears(model, 2)
    mark_only_lora_as_trainable(model, bias="all")
    for i, p in enumerate(p for n, p in model.named_parameters() if "lora_A" in n):
        with torch.no_grad():
            p.copy_(torch.tensor(numbers(*p.shape, seed=i)))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr=0.01)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    x, y = torch.tensor(labels(30, 7)).view(5, 6), torch.tensor(labels(30, 7, 1)).view(5, 6)
    losses = []
    for _ in range(20):
        model.train()
        logits = model(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        losses.append(loss.item())
    buffer = io.BytesIO()
    torch.save(lora_state_dict(model), buffer)
    buffer.seek(0)
    again = Model().double()
    replace_linears(again, 2)
    missing = again.load_state_dict(base, strict=False)
    more = again.load_state_dict(torch.load(buffer), strict=False)
    model.eval()
    merged = model(x)
    return (losses, trainable, merged, again(x), sorted(missing.missing_keys),
            sorted(more.missing_keys), more.unexpected_keys, model.state_dict())
