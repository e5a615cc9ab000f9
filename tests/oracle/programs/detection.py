"""A single-shot detector: anchors by meshgrid, matched boxes, box regression, suppression."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import filled, numbers


def make_anchors(size, scales, device="cpu"):
    shifts = (torch.arange(0, size, dtype=torch.float64, device=device) + 0.5) / size
    shift_y, shift_x = torch.meshgrid(shifts, shifts, indexing="ij")
    centers = torch.stack((shift_x.reshape(-1), shift_y.reshape(-1)), dim=1)
    boxes = []
    for s in scales:
        wh = centers.new_full(centers.shape, s)
        boxes.append(torch.cat([centers, wh], dim=1))
    return torch.stack(boxes, dim=1).view(-1, 4)


def point_form(boxes):
    return torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)


def jaccard(box_a, box_b):
    A, B = box_a.size(0), box_b.size(0)
    max_xy = torch.min(box_a[:, 2:].unsqueeze(1).expand(A, B, 2),
                       box_b[:, 2:].unsqueeze(0).expand(A, B, 2))
    min_xy = torch.max(box_a[:, :2].unsqueeze(1).expand(A, B, 2),
                       box_b[:, :2].unsqueeze(0).expand(A, B, 2))
    inter = torch.clamp((max_xy - min_xy), min=0)
    inter = inter[:, :, 0] * inter[:, :, 1]
    area_a = ((box_a[:, 2] - box_a[:, 0]) * (box_a[:, 3] - box_a[:, 1])).unsqueeze(1)
    area_b = ((box_b[:, 2] - box_b[:, 0]) * (box_b[:, 3] - box_b[:, 1])).unsqueeze(0)
    return inter / (area_a.expand_as(inter) + area_b.expand_as(inter) - inter)


def match(threshold, truths, priors, labels):
    overlaps = jaccard(truths, point_form(priors))
    _best_prior_overlap, best_prior_idx = overlaps.max(1, keepdim=True)
    best_truth_overlap, best_truth_idx = overlaps.max(0, keepdim=True)
    best_truth_idx.squeeze_(0)
    best_truth_overlap.squeeze_(0)
    best_prior_idx.squeeze_(1)
    best_truth_overlap.index_fill_(0, best_prior_idx, 2)
    for j in range(best_prior_idx.size(0)):
        best_truth_idx[best_prior_idx[j]] = j
    matches = truths[best_truth_idx]
    conf = labels[best_truth_idx] + 1
    conf[best_truth_overlap < threshold] = 0
    g_cxcy = (matches[:, :2] + matches[:, 2:]) / 2 - priors[:, :2]
    g_cxcy /= 0.1 * priors[:, 2:]
    g_wh = torch.log((matches[:, 2:] - matches[:, :2]) / priors[:, 2:]) / 0.2
    return torch.cat([g_cxcy, g_wh], 1), conf


def nms(boxes, scores, overlap=0.5, top_k=8):
    keep = scores.new(scores.size(0)).zero_().long()
    if boxes.numel() == 0:
        return keep, 0
    area = torch.mul(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    _v, idx = scores.sort(0)
    idx = idx[-top_k:]
    count = 0
    while idx.numel() > 0:
        i = idx[-1]
        keep[count] = i
        count += 1
        if idx.size(0) == 1:
            break
        idx = idx[:-1]
        others = torch.index_select(boxes, 0, idx)
        iou = jaccard(boxes[i].unsqueeze(0), others).squeeze(0)
        assert area.gt(0).all()
        idx = idx[iou.le(overlap)]
    return keep, count


class MultiBoxLoss(nn.Module):
    def __init__(self, num_classes, negpos_ratio=3):
        super().__init__()
        self.num_classes, self.negpos_ratio = num_classes, negpos_ratio

    def forward(self, loc_data, conf_data, loc_t, conf_t):
        num = loc_data.size(0)
        pos = conf_t > 0
        pos_idx = pos.unsqueeze(pos.dim()).expand_as(loc_data)
        loss_l = F.smooth_l1_loss(loc_data[pos_idx].view(-1, 4), loc_t[pos_idx].view(-1, 4),
                                  reduction="sum")
        batch_conf = conf_data.view(-1, self.num_classes)
        loss_c = torch.logsumexp(batch_conf, 1, keepdim=True) - batch_conf.gather(
            1, conf_t.view(-1, 1))
        loss_c = loss_c.view(num, -1).detach()
        loss_c[pos] = 0
        _, loss_idx = loss_c.sort(1, descending=True)
        _, idx_rank = loss_idx.sort(1)
        num_pos = pos.long().sum(1, keepdim=True)
        num_neg = torch.clamp(self.negpos_ratio * num_pos, max=pos.size(1) - 1)
        neg = idx_rank < num_neg.expand_as(idx_rank)
        chosen = (pos.unsqueeze(2).expand_as(conf_data) | neg.unsqueeze(2).expand_as(conf_data))
        conf_p = conf_data[chosen].view(-1, self.num_classes)
        loss_c = F.cross_entropy(conf_p, conf_t[(pos + neg).gt(0)], reduction="sum")
        N = num_pos.data.sum().double()
        return loss_l / N, loss_c / N


def main():
    priors = make_anchors(4, [0.3, 0.6])
    torch.manual_seed(0)
    net = filled(nn.Sequential(nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.ReLU(),
                               nn.Conv2d(8, 2 * (4 + 3), 3, padding=1)))
    criterion = MultiBoxLoss(3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    images = torch.from_numpy(numbers(2, 2, 8, 8))
    truths = [torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.9, 0.9]], dtype=torch.double),
              torch.tensor([[0.3, 0.2, 0.8, 0.6]], dtype=torch.double)]
    targets = [torch.tensor([0, 1]), torch.tensor([1])]
    loc_t, conf_t = torch.DoubleTensor(2, 32, 4), torch.LongTensor(2, 32)
    for i in range(2):
        loc_t[i], conf_t[i] = match(0.5, truths[i].data, priors.data, targets[i].data)
    history = []
    for _ in range(20):
        out = net(images).permute(0, 2, 3, 1).contiguous().view(2, 32, 7)
        loc, conf = out.split([4, 3], dim=-1)
        optimizer.zero_grad()
        loss_l, loss_c = criterion(loc, conf, loc_t, conf_t)
        loss = loss_l + loss_c
        loss.backward()
        optimizer.step()
        history.append((loss_l.item(), loss_c.item()))
    scores = conf[0].softmax(-1)[:, 1:].amax(-1).data
    decoded = torch.cat((priors[:, :2] + loc[0].data[:, :2] * 0.1 * priors[:, 2:],
                         priors[:, 2:] * torch.exp(loc[0].data[:, 2:] * 0.2)), 1)
    keep, count = nms(point_form(decoded), scores)
    return history, keep[:count], count, decoded, conf_t, list(net.parameters())
