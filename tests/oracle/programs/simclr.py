"""SimCLR: NT-Xent over two views, LARS-like scaling by hand, and a linear probe of the features."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import filled, labels, numbers


class TwoCropsTransform:
    """Take two random crops of one image as the query and key."""

    def __init__(self, base_transform):
        self.base_transform = base_transform
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return [self.base_transform(x, self.calls), self.base_transform(x, -self.calls)]


class Views(torch.utils.data.Dataset):
    def __init__(self, x, y, transform=None):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i]
        return (self.transform(x) if self.transform is not None else x), int(self.y[i])


def nt_xent(features, temperature=0.5, n_views=2):
    batch = features.shape[0] // n_views
    labels = torch.cat([torch.arange(batch) for i in range(n_views)], dim=0)
    labels = (labels.unsqueeze(0) == labels.unsqueeze(1)).float()
    features = F.normalize(features, dim=1)
    similarity_matrix = torch.matmul(features, features.T)
    mask = torch.eye(labels.shape[0], dtype=torch.bool)
    labels = labels[~mask].view(labels.shape[0], -1)
    similarity_matrix = similarity_matrix[~mask].view(similarity_matrix.shape[0], -1)
    positives = similarity_matrix[labels.bool()].view(labels.shape[0], -1)
    negatives = similarity_matrix[~labels.bool()].view(similarity_matrix.shape[0], -1)
    logits = torch.cat([positives, negatives], dim=1)
    labels = torch.zeros(logits.shape[0], dtype=torch.long)
    return F.cross_entropy(logits / temperature, labels), logits


class Projection(nn.Module):
    def __init__(self, encoder, dim_mlp=8, out_dim=4):
        super().__init__()
        self.backbone = encoder
        self.backbone.fc = nn.Sequential(nn.Linear(dim_mlp, dim_mlp), nn.ReLU(),
                                         nn.Linear(dim_mlp, out_dim))

    def forward(self, x):
        return self.backbone(x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, bias=False)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Identity()

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.avgpool(F.relu(self.conv2(x))).flatten(1)
        return self.fc(x)


def main():
    data = torch.from_numpy(numbers(12, 1, 9, 9))
    target = labels(12, 3)
    crop = lambda x, k: torch.roll(x, shifts=(k % 3, k % 2), dims=(1, 2)) + 0.01 * k
    loader = torch.utils.data.DataLoader(Views(data, target, TwoCropsTransform(crop)),
                                         batch_size=6, drop_last=True)
    model = filled(Projection(Encoder()))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16, eta_min=1e-4)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[4])
    history = []
    for _ in range(10):
        for images, _ in loader:
            images = torch.cat(images, dim=0)
            loss, logits = nt_xent(model(images))
            optimizer.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    if p.ndim > 1:
                        trust = p.norm() / p.grad.norm().clamp_min(1e-8)
                        p.grad.mul_(trust.clamp(max=2.0))
            optimizer.step()
            scheduler.step()
            top1 = (logits.argmax(1) == 0).float().mean().mul(100)
            history.append((loss.item(), top1.item(), scheduler.get_last_lr()[0]))
    model.backbone.fc = nn.Identity()
    model.eval()
    state_dict = {k.replace("backbone.", ""): v for k, v in model.state_dict().items()
                  if k.startswith("backbone.") and not k.startswith("backbone.fc")}
    probe = Encoder().double()
    probe.fc = filled(nn.Linear(8, 3))
    log = probe.load_state_dict(state_dict, strict=False)
    assert log.missing_keys == ["fc.weight", "fc.bias"]
    for name, param in probe.named_parameters():
        if name not in ["fc.weight", "fc.bias"]:
            param.requires_grad = False
    parameters = list(filter(lambda p: p.requires_grad, probe.parameters()))
    assert len(parameters) == 2
    linear = torch.optim.Adam(parameters, lr=0.05, weight_decay=0.0008)
    for _ in range(10):
        loss = F.cross_entropy(probe(data), torch.as_tensor(target))
        linear.zero_grad()
        loss.backward()
        linear.step()
        history.append(loss.item())
    return history, model(data), probe.state_dict()
