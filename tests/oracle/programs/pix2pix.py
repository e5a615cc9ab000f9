"""A pix2pix: a U-Net generator built from inside out, a patch discriminator, functools.partial."""

import functools

import torch
import torch.nn as nn
from common import filled, numbers


class UnetSkipConnectionBlock(nn.Module):
    def __init__(self, outer_nc, inner_nc, submodule=None, outermost=False, innermost=False,
                 norm_layer=nn.BatchNorm2d):
        super().__init__()
        self.outermost = outermost
        if type(norm_layer) is functools.partial:
            use_bias = norm_layer.func == nn.InstanceNorm2d
        else:
            use_bias = norm_layer == nn.InstanceNorm2d
        downconv = nn.Conv2d(outer_nc, inner_nc, kernel_size=4, stride=2, padding=1, bias=use_bias)
        downrelu, uprelu = nn.LeakyReLU(0.2, True), nn.ReLU(True)
        if outermost:
            upconv = nn.ConvTranspose2d(inner_nc * 2, outer_nc, 4, stride=2, padding=1)
            model = [downconv, submodule, uprelu, upconv, nn.Tanh()]
        elif innermost:
            upconv = nn.ConvTranspose2d(inner_nc, outer_nc, 4, stride=2, padding=1, bias=use_bias)
            model = [downrelu, downconv, uprelu, upconv, norm_layer(outer_nc)]
        else:
            upconv = nn.ConvTranspose2d(inner_nc * 2, outer_nc, 4, stride=2, padding=1,
                                        bias=use_bias)
            model = [downrelu, downconv, norm_layer(inner_nc), submodule, uprelu, upconv,
                     norm_layer(outer_nc), nn.Dropout(0.0)]
        self.model = nn.Sequential(*model)

    def forward(self, x):
        if self.outermost:
            return self.model(x)
        return torch.cat([x, self.model(x)], 1)


class GANLoss(nn.Module):
    def __init__(self, target_real_label=1.0, target_fake_label=0.0):
        super().__init__()
        self.register_buffer("real_label", torch.tensor(target_real_label))
        self.register_buffer("fake_label", torch.tensor(target_fake_label))
        self.loss = nn.BCEWithLogitsLoss()

    def get_target_tensor(self, prediction, target_is_real):
        target_tensor = self.real_label if target_is_real else self.fake_label
        return target_tensor.expand_as(prediction)

    def __call__(self, prediction, target_is_real):
        return self.loss(prediction, self.get_target_tensor(prediction, target_is_real))


def set_requires_grad(nets, requires_grad=False):
    if not isinstance(nets, list):
        nets = [nets]
    for net in nets:
        if net is not None:
            for param in net.parameters():
                param.requires_grad = requires_grad


def init_weights(net, gain=0.02):
    def init_func(m):
        classname = m.__class__.__name__
        if hasattr(m, "weight") and (classname.find("Conv") != -1
                                     or classname.find("Linear") != -1):
            torch.nn.init.normal_(m.weight.data, 0.0, gain)
            if hasattr(m, "bias") and m.bias is not None:
                torch.nn.init.constant_(m.bias.data, 0.0)
        elif classname.find("BatchNorm2d") != -1:
            torch.nn.init.normal_(m.weight.data, 1.0, gain)
            torch.nn.init.constant_(m.bias.data, 0.0)

    net.apply(init_func)


def main():
    norm_layer = functools.partial(nn.BatchNorm2d, affine=True, track_running_stats=True)
    block = UnetSkipConnectionBlock(4, 6, innermost=True, norm_layer=norm_layer)
    block = UnetSkipConnectionBlock(3, 4, submodule=block, norm_layer=norm_layer)
    netG = UnetSkipConnectionBlock(2, 3, submodule=block, outermost=True, norm_layer=norm_layer)
    netD = nn.Sequential(nn.Conv2d(4, 4, 4, 2, 1), nn.LeakyReLU(0.2, True),
                         nn.Conv2d(4, 1, 3, 1, 1))
    for net in (netG, netD):
        init_weights(net)
        filled(net)
    criterionGAN, criterionL1 = GANLoss().double(), nn.L1Loss()
    optimizer_G = torch.optim.Adam(netG.parameters(), lr=0.002, betas=(0.5, 0.999))
    optimizer_D = torch.optim.Adam(netD.parameters(), lr=0.002, betas=(0.5, 0.999))
    optimizers = [optimizer_G, optimizer_D]
    history = []
    for i in range(20):
        real_A = torch.from_numpy(numbers(2, 2, 16, 16, seed=i))
        real_B = real_A.flip(-1).tanh()
        fake_B = netG(real_A)
        set_requires_grad(netD, True)
        optimizer_D.zero_grad()
        pred_fake = netD(torch.cat((real_A, fake_B), 1).detach())
        loss_D_fake = criterionGAN(pred_fake, False)
        loss_D_real = criterionGAN(netD(torch.cat((real_A, real_B), 1)), True)
        loss_D = (loss_D_fake + loss_D_real) * 0.5
        loss_D.backward()
        optimizer_D.step()
        set_requires_grad(netD, False)
        optimizer_G.zero_grad()
        loss_G = criterionGAN(netD(torch.cat((real_A, fake_B), 1)), True)
        loss_G = loss_G + criterionL1(fake_B, real_B) * 100.0
        loss_G.backward()
        optimizer_G.step()
        history.append([loss_D.item(), loss_G.item()])
    num_params = sum(param.numel() for param in netG.parameters())
    rates = [o.param_groups[0]["lr"] for o in optimizers]
    return history, num_params, rates, netG.state_dict(), netD.state_dict()
