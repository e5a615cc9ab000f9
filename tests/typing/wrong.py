"""Calls that type checkers must reject: on each line with the word, and on no other."""

import gpuprop
from gpuprop import functional as F
from gpuprop import nn, optim

x = gpuprop.zeros(2, 3)
model = nn.Linear(3, 3)

F.relu()  # error
F.relu(x, inplce=True)  # error
F.linear(x)  # error
F.cross_entropy(x)  # error
F.conv2d(x)  # error
F.conv2d(x, x, dilatoin=2)  # error
F.max_pool2d()  # error
F.softmax(x, dim=1, dtpye="float64")  # error
F.dropout(x, p="a half")  # error
F.layer_norm(x)  # error
gpuprop.exp(x, x)  # error
gpuprop.sum(x, axs=0)  # error
gpuprop.sum(x, keepdims="yes")  # error
gpuprop.reshape(x)  # error
gpuprop.concatenate()  # error
gpuprop.concatenate([x, x], axis="x")  # error
gpuprop.stack([x], 0, 1)  # error
gpuprop.sort(x, order=1)  # error
x.sum(dim="rows")  # error
x.gather(index=x)  # error
gpuprop.manual_seed("zero")  # error
gpuprop.nonsense(x)  # error
nn.Linear("3", 3)  # error
nn.ReLU(inplce=True)  # error
nn.Softmax(dmi=1)  # error
nn.CrossEntropyLoss(label_smooothing=0.1)  # error
optim.Adam(model.parameters(), leraning_rate=1e-3)  # error
x.no_such_method()  # error


@gpuprop.op
def cube(xp, x: gpuprop.Array, scale: float = 1.0):
    return x**3 * scale, (lambda dy: 3 * x**2 * scale * dy,)


cube()  # error
cube(x, scale="large")  # error
