"""Forecasting a series with LSTM cells: L-BFGS, then Adam with early stopping and a plateau."""

import copy

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from common import filled


class Sequence(nn.Module):
    def __init__(self):
        super(Sequence, self).__init__()
        self.lstm1 = nn.LSTMCell(1, 6)
        self.lstm2 = nn.LSTMCell(6, 6)
        self.linear = nn.Linear(6, 1)

    def forward(self, input, future=0):
        outputs = []
        h_t = torch.zeros(input.size(0), 6, dtype=torch.double)
        c_t = torch.zeros(input.size(0), 6, dtype=torch.double)
        h_t2 = torch.zeros(input.size(0), 6, dtype=torch.double)
        c_t2 = torch.zeros(input.size(0), 6, dtype=torch.double)
        for input_t in input.split(1, dim=1):
            h_t, c_t = self.lstm1(input_t, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        for _ in range(future):
            h_t, c_t = self.lstm1(output, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        outputs = torch.cat(outputs, dim=1)
        return outputs


class EarlyStopping:
    def __init__(self, patience=5, delta=0):
        self.patience, self.delta = patience, delta
        self.counter, self.best_score, self.early_stop = 0, None, False
        self.best_model_wts = None

    def __call__(self, val_loss, model):
        score = -val_loss
        if self.best_score is None or score > self.best_score + self.delta:
            self.best_score, self.counter = score, 0
            self.best_model_wts = copy.deepcopy(model.state_dict())
        else:
            self.counter += 1
            if self.counter >= self.patience:
                self.early_stop = True


def sliding_windows(data, size, step):
    return data.unfold(0, size, step)


def main():
    np.random.seed(0)
    torch.manual_seed(0)
    x = np.sin(np.arange(60) / 4.0)
    windows = sliding_windows(torch.from_numpy(x), 11, 7)
    input, target = windows[2:, :-1], windows[2:, 1:]
    test_input, test_target = windows[:2, :-1], windows[:2, 1:]
    seq = filled(Sequence())
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(seq.parameters(), lr=0.8, max_iter=4)
    losses = []
    for _ in range(3):
        def closure():
            optimizer.zero_grad()
            out = seq(input)
            loss = criterion(out, target)
            losses.append(loss.item())
            loss.backward()
            return loss
        optimizer.step(closure)
    adam = optim.Adam(seq.parameters(), lr=0.05)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=1, threshold=0.1)
    stopper = EarlyStopping(patience=4)
    for _ in range(20):
        adam.zero_grad()
        loss = criterion(seq(input), target)
        loss.backward()
        adam.step()
        with torch.no_grad():
            future = 5
            pred = seq(test_input, future=future)
            val_loss = criterion(pred[:, :-future], test_target)
            y = pred.detach().numpy()
        plateau.step(val_loss)
        losses.append((val_loss.item(), adam.param_groups[0]["lr"]))
        stopper(val_loss.item(), seq)
        if stopper.early_stop:
            break
    seq.load_state_dict(stopper.best_model_wts)
    return losses, y, stopper.counter, seq.state_dict()
