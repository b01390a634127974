"""Tiny comparisons for the tests."""

from vqmm.comparison.compare import compare

TINY = ["modality.size=8", "modality.channels=1", "modality.stride=2", "modality.width=16", "quantizer.dim=8"]
TINY += ["train.batch_size=8", "train.checkpoint_every=2", "train.evaluate_samples=16"]
RECIPES = ["ae", "vqvae-ema"]
NOT_FINITE = "quantizer: {name: none}\ntrain: {learning_rate: 1.0e+30}\n"  # a recipe whose second step is not


def call(out, recipes=RECIPES, **changes):
    """`compare` of two recipes and two seeds for four steps on the built-in digits, but for the changes."""
    told = {"data": "builtin:digits", "steps": 4, "seeds": [0, 1], "settings": TINY, "quiet": True} | changes
    return compare("image", recipes, told.pop("data"), out, **told)


def typed(out, recipes, *more):
    """What is typed for a comparison."""
    sets = [part for setting in TINY for part in ("--set", setting)]
    return ("compare", "image", "--recipes", recipes, "--data", "builtin:digits", "--out", out, *sets, *more)
