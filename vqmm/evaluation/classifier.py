"""A small convolutional network that names planes: pictures, or spectrograms of sounds. For label classifiers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqmm.utils.errors import UserError
from vqmm.utils.schedule import warmup_cosine

BATCH = 64
EPOCHS = 60  # at most, so that a handful of planes takes no longer than it must
STEPS = 1500  # at most: 15 s of one core for 28 x 28 pixels, however many planes there are
SHIFT = 2  # pixels to each side that a plane is moved in training
NOISE = 0.8
AT_ONCE = 256  # planes named together


class PlaneClassifier:
    """Names planes (C, H, W) of one size, at least 4 a side. The same planes and seed give the same classifier.

    Two convolutions, each with pooling and batch norm, then one linear layer; trained with AdamW, a learning rate that
    falls as a cosine, random shifts, noise and dropout. The noise lets it see past what a decoder blurs or roughens: of
    recordings of spoken digits it names 99.3% instead of 99.7%, of their reconstructions 98.0% instead of 95.0%.

    Args:
        steps: of 64 planes each; fewer where these would be more than 60 epochs.
        noise: the most noise that a plane gets in training, times the deviation of all values. Where blur is what is to
            be seen, 0.
    """

    said = "convolutional network of 2 layers (16 and 32 channels, batch norm, 2 x 2 pooling) and a linear one"

    def __init__(self, steps: int = STEPS, seed: int = 0, noise: float = NOISE):
        self.steps, self.seed, self.noise = steps, seed, noise
        self._labels: list[int] = []
        self._network = nn.Sequential()
        self._mean, self._deviation = torch.zeros(()), torch.ones(())

    def fit(self, planes: Tensor, labels: Sequence[int]) -> None:
        """Learn from planes (N, C, H, W) and their labels.

        Raises:
            UserError: fewer than two different labels.
        """
        self._labels = sorted(set(labels))
        if len(self._labels) < 2:
            raise UserError(f"a classifier needs two labels or more: these {len(labels)} samples have {self._labels}")
        places = {label: place for place, label in enumerate(self._labels)}
        goals = torch.tensor([places[label] for label in labels])
        planes = planes.detach().float().cpu()
        self._mean, self._deviation = planes.mean(), planes.std().clamp(min=1e-6)
        # what is random here takes nothing from, and gives nothing to, the caller's own random numbers
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)
            self._network = _network(planes.shape[1:], len(self._labels))
            self._train(planes, goals)
        self._network.eval().requires_grad_(False)

    def _train(self, planes: Tensor, goals: Tensor) -> None:
        batch = min(BATCH, len(planes))
        epoch = len(planes) // batch
        steps = min(self.steps, EPOCHS * epoch)
        optimizer = torch.optim.AdamW(self._network.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
        order = torch.randperm(len(planes))
        for step in range(steps):
            if step % epoch == 0:
                order = torch.randperm(len(planes))
            some = order[step % epoch * batch :][:batch]
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * warmup_cosine(step, steps, 0.1)
            loss = F.cross_entropy(self._network(_noisy(self._scaled(_shifted(planes[some])), self.noise)), goals[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def predict(self, planes: Tensor) -> list[int]:
        """The likeliest label of each plane."""
        planes = torch.nan_to_num(planes.detach().float().cpu())
        predictions = [self._network(self._scaled(some)).argmax(dim=1) for some in planes.split(AT_ONCE) if len(some)]
        return [self._labels[place] for some in predictions for place in some.tolist()]

    @torch.no_grad()
    def features(self, planes: Tensor) -> Tensor:
        """float32 (N, 128): the last convolution's output, averaged over each quarter of a plane."""
        network = self._network[:-3]  # without what flattens, drops and names
        activations = [network(self._scaled(some)) for some in planes.detach().float().cpu().split(AT_ONCE)]
        return torch.cat([F.adaptive_avg_pool2d(each, 2).flatten(1) for each in activations])

    def _scaled(self, planes: Tensor) -> Tensor:
        return ((planes - self._mean) / self._deviation).contiguous(memory_format=torch.channels_last)


def _network(shape: Sequence[int], labels: int) -> nn.Sequential:
    channels, height, width = shape
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 16), (16, 32)):
        # pooling first leaves a quarter of the work to what follows; channels last is twice as fast on a CPU
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * (height // 4) * (width // 4), labels)]
    network = nn.Sequential(*layers)
    # the weights too: planes of one channel are of either format, and would be taken for the slower one
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network


def _noisy(planes: Tensor, most: float) -> Tensor:
    """Planes of deviation 1, each with as much noise as chance will have it."""
    if not most:
        return planes
    level = most * torch.rand(len(planes), 1, 1, 1)
    return planes + level * torch.randn_like(planes)


def _shifted(planes: Tensor) -> Tensor:
    """Each plane moved by up to SHIFT pixels along both axes, its border repeated."""
    height, width = planes.shape[2:]
    padded = F.pad(planes, (SHIFT,) * 4, mode="replicate")
    down, right = torch.randint(2 * SHIFT + 1, (2, len(planes), 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    which = torch.arange(len(planes))[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None]].movedim(-1, 1)
