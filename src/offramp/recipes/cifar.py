"""Recipes for CIFAR.

``cifar10`` made the model in the package: ``offramp train cifar10 --set compile=true``, on 2 cores of an AMD EPYC (Zen 3,
no AVX-512), torch 2.13.0 for CPU, 12 epochs in 107 minutes on a machine shared with other work. Top-1 on the 10,000 test
images at exits 0 to 4, stored weights: 82.27, 85.18, 87.52, 88.13, 88.57 % (n = 1 run). It is a short recipe for a small
machine; the paper trains for 300 epochs.
"""

from offramp.train.recipe import Recipe

RECIPES = {
    "cifar10": Recipe(
        variant="msdnet-cifar-batch-5",
        source="cifar10",
        epochs=12,
        batch_size=64,
        learning_rate=0.1,
        warmup_epochs=1,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.998,
    )
}
