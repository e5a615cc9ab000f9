"""Super resolution with PixelShuffle, orthogonal initialization and a Dataset of files."""

from math import log10

import numpy as np
import torch
import torch.nn as nn
import torch.nn.init as init
import torch.utils.data as data
from common import filled, numbers
from torch.utils.data import DataLoader


class Net(nn.Module):
    def __init__(self, upscale_factor):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(1, 6, (5, 5), (1, 1), (2, 2))
        self.conv2 = nn.Conv2d(6, 6, (3, 3), (1, 1), (1, 1))
        self.conv3 = nn.Conv2d(6, upscale_factor ** 2, (3, 3), (1, 1), (1, 1))
        self.pixel_shuffle = nn.PixelShuffle(upscale_factor)
        self._initialize_weights()

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.pixel_shuffle(self.conv3(x))

    def _initialize_weights(self):
        init.orthogonal_(self.conv1.weight, init.calculate_gain("relu"))
        init.orthogonal_(self.conv2.weight, init.calculate_gain("relu"))
        init.orthogonal_(self.conv3.weight)


class DatasetFromArrays(data.Dataset):
    def __init__(self, arrays, input_transform=None, target_transform=None):
        super().__init__()
        self.image_filenames = arrays
        self.input_transform = input_transform
        self.target_transform = target_transform

    def __getitem__(self, index):
        input = self.image_filenames[index]
        target = input.copy()
        if self.input_transform:
            input = self.input_transform(input)
        if self.target_transform:
            target = self.target_transform(target)
        return input, target

    def __len__(self):
        return len(self.image_filenames)


def main():
    torch.manual_seed(123)
    images = [np.clip(numbers(8, 8, seed=i), 0, 1) for i in range(8)]
    to_tensor = lambda im: torch.from_numpy(im).unsqueeze(0)
    dataset = DatasetFromArrays(images, lambda im: to_tensor(im[::2, ::2].copy()), to_tensor)
    train_set, test_set = data.Subset(dataset, range(6)), data.Subset(dataset, [6, 7])
    training = DataLoader(dataset=train_set, num_workers=0, batch_size=2, shuffle=False)
    testing = DataLoader(dataset=test_set, num_workers=0, batch_size=1, shuffle=False)
    model = filled(Net(upscale_factor=2))
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    report = []
    for _ in range(7):
        epoch_loss = 0
        for batch in training:
            input, target = batch[0], batch[1]
            optimizer.zero_grad()
            loss = criterion(model(input), target)
            epoch_loss += loss.item()
            loss.backward()
            optimizer.step()
        avg_psnr = 0
        with torch.no_grad():
            for batch in testing:
                input, target = batch
                mse = criterion(model(input), target)
                avg_psnr += 10 * log10(1 / mse.item())
        report.append((epoch_loss / len(training), avg_psnr / len(testing)))
    out = model(dataset[0][0].unsqueeze(0))
    out_img_y = out[0].detach().numpy() * 255.0
    return report, np.uint8(out_img_y.clip(0, 255)), list(model.parameters())
