# %% [markdown]
# # A model of your own in 1 bit
#
# A small convolutional net in plain PyTorch is made binary, trained, and run on packed bits. The images are ten
# patterns under noise.

# %%
import time

import torch
from torch import nn

from kernels.torch import clip_weights, make_binary

torch.manual_seed(0)
patterns = torch.randn(10, 1, 16, 16).sign()
labels = torch.randint(0, 10, (1200,))
images = patterns[labels] + 1.5 * torch.randn(1200, 1, 16, 16)
train, test = slice(0, 1000), slice(1000, 1200)

# %% [markdown]
# ## The float model
#
# No activations: each binary layer takes the sign of its input. Batch norm follows each layer.

# %%
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.Conv2d(32, 64, 3, padding=1),
    nn.MaxPool2d(2),
    nn.BatchNorm2d(64),
    nn.Flatten(),
    nn.Linear(64 * 8 * 8, 10),
    nn.BatchNorm1d(10),
)

# %% [markdown]
# ## In 1 bit
#
# Every layer now multiplies by ±1. The inputs of the first layer, the images, stay real numbers.

# %%
make_binary(model, real_inputs={"0"})
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(3):
    for batch in torch.arange(1000).split(50):
        loss = nn.functional.cross_entropy(model(images[train][batch]), labels[train][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clip_weights(model)

# %% [markdown]
# ## On bits
#
# `eval()` packs the weights; without gradients the products are XNOR and popcount, which give the same integers.

# %%
model.eval()
by_floats = model(images[test])  # with gradients: the float products of training
with torch.no_grad():
    begin = time.perf_counter()
    by_bits = model(images[test])
    seconds = time.perf_counter() - begin
accuracy = float((by_bits.argmax(1) == labels[test]).float().mean())
same = bool((by_bits.argmax(1) == by_floats.argmax(1)).all())
bits = sum(layer.packed.numel() * 8 for layer in model if getattr(layer, "packed", None) is not None)
print(f"{100 * accuracy:.1f} % right, {1000 * seconds:.1f} ms for 200 images; 1-bit weights take {bits:,} bytes")
