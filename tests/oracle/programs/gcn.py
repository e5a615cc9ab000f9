"""A graph convolution and attention network on one dense graph, with masks for the split."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from common import labels, numbers
from torch.nn.modules.module import Module
from torch.nn.parameter import Parameter


class GraphConvolution(Module):
    def __init__(self, in_features, out_features, bias=True):
        super(GraphConvolution, self).__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(torch.DoubleTensor(in_features, out_features))
        if bias:
            self.bias = Parameter(torch.DoubleTensor(out_features))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self):
        stdv = 1. / math.sqrt(self.weight.size(1))
        self.weight.data.uniform_(-stdv, stdv)
        if self.bias is not None:
            self.bias.data.uniform_(-stdv, stdv)
        self.weight.data.copy_(torch.tensor(numbers(*self.weight.shape)) * stdv)
        self.bias.data.zero_()

    def forward(self, input, adj):
        support = torch.mm(input, self.weight)
        output = torch.spmm(adj, support)
        if self.bias is not None:
            return output + self.bias
        else:
            return output

    def __repr__(self):
        return self.__class__.__name__ + " (" + str(self.in_features) + " -> " \
               + str(self.out_features) + ")"


class GraphAttention(nn.Module):
    def __init__(self, in_features, out_features, alpha=0.2):
        super().__init__()
        self.out_features = out_features
        self.W = nn.Parameter(torch.empty(size=(in_features, out_features)))
        nn.init.xavier_uniform_(self.W.data, gain=1.414)
        self.a = nn.Parameter(torch.empty(size=(2 * out_features, 1)))
        nn.init.xavier_uniform_(self.a.data, gain=1.414)
        for p in (self.W, self.a):
            p.data = torch.from_numpy(numbers(*p.shape)) * 0.4
        self.leakyrelu = nn.LeakyReLU(alpha)

    def forward(self, h, adj):
        Wh = torch.mm(h, self.W)
        Wh1 = torch.matmul(Wh, self.a[:self.out_features, :])
        Wh2 = torch.matmul(Wh, self.a[self.out_features:, :])
        e = self.leakyrelu(Wh1 + Wh2.T)
        zero_vec = -9e15 * torch.ones_like(e)
        attention = torch.where(adj > 0, e, zero_vec)
        attention = F.softmax(attention, dim=1)
        return F.elu(torch.matmul(attention, Wh))


class GCN(nn.Module):
    def __init__(self, nfeat, nhid, nclass, dropout):
        super(GCN, self).__init__()
        self.gc1 = GraphConvolution(nfeat, nhid)
        self.heads = [GraphAttention(nhid, 3) for _ in range(2)]
        for i, attention in enumerate(self.heads):
            self.add_module("attention_{}".format(i), attention)
        self.gc2 = GraphConvolution(6, nclass)
        self.dropout = dropout

    def forward(self, x, adj):
        x = F.relu(self.gc1(x, adj))
        x = F.dropout(x, self.dropout, training=self.training)
        x = torch.cat([att(x, adj) for att in self.heads], dim=1)
        x = self.gc2(x, adj)
        return F.log_softmax(x, dim=1)


def accuracy(output, labels):
    preds = output.max(1)[1].type_as(labels)
    correct = preds.eq(labels).double()
    correct = correct.sum()
    return correct / len(labels)


def main():
    n = 20
    adj = np.random.default_rng(0).random((n, n)) < 0.2
    adj = adj + adj.T + np.eye(n)
    adj = torch.from_numpy(adj / adj.sum(1, keepdims=True))
    features, target = torch.DoubleTensor(numbers(n, 5)), torch.LongTensor(labels(n, 3))
    idx_train, idx_val = torch.LongTensor(range(12)), torch.LongTensor(range(12, 20))
    model = GCN(5, 6, int(target.max().item()) + 1, dropout=0.0)
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    log = []
    for epoch in range(20):
        model.train()
        optimizer.zero_grad()
        output = model(features, adj)
        loss_train = F.nll_loss(output[idx_train], target[idx_train])
        loss_train.backward()
        optimizer.step()
        model.eval()
        output = model(features, adj)
        loss_val = F.nll_loss(output[idx_val], target[idx_val])
        log.append([epoch + 1, loss_train.item(), loss_val.item(),
                    accuracy(output[idx_train], target[idx_train]).item(),
                    accuracy(output[idx_val], target[idx_val]).item()])
    return log, output, list(model.parameters())
