"""Recipes for CIFAR.

``cifar10`` made the model in the package: ``offramp train cifar10 --set compile=true``, on 2 cores of an AMD EPYC (Zen 3,
no AVX-512), torch 2.13.0 for CPU, 12 epochs in 107 minutes on a machine shared with other work. Top-1 on the 10,000 test
images at exits 0 to 4, stored weights: 82.27, 85.18, 87.52, 88.13, 88.57 % (n = 1 run). It is a short recipe for a small
machine.

``paper-cifar`` has the paper's values (Huang et al., arXiv:1703.09844, section 5): 300 epochs, batch 64, tenths at 150 and
225, 5,000 images held out, on the network of the published anytime curves. ``fast-cifar`` is a modern one for a GPU: large
batches, one cosine, bf16. Both are for CIFAR-100 too, with ``--data cifar100``. Neither has been run to its end yet, so no
accuracy is claimed (docs/gpu-status.md).

``small-cifar`` trains the ``small`` network of each family, all of about 40 million MACs, in minutes on one core; what became
of them stands in docs/networks.md.
"""

from offramp.train.recipe import Recipe

_PAPER = Recipe(
    variant="msdnet-cifar-anytime-10",
    source="cifar10",
    epochs=300,
    batch_size=64,
    learning_rate=0.1,
    schedule="multistep",
    crop_pad=4,
    drop_last=False,
)

_FAST = Recipe(
    variant="msdnet-cifar-anytime-10",
    source="cifar10",
    epochs=100,
    batch_size=512,
    learning_rate=0.4,
    warmup_epochs=5,
    weight_decay=5e-4,
    label_smoothing=0.1,
    ema_decay=0.998,
    crop_pad=4,
    cutout=8,
    precision="bf16",
    compile=True,
)

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
        crop_pad=4,
    ),
    "small-cifar": Recipe(
        variant="msdnet-cifar-batch-4",
        source="cifar10",
        epochs=6,
        batch_size=64,
        learning_rate=0.1,
        warmup_epochs=0.5,
        weight_decay=5e-4,
        label_smoothing=0.1,
        crop_pad=4,
    ),
    "paper-cifar": _PAPER,
    "fast-cifar": _FAST,
}
