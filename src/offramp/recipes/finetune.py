"""Training a model further on images of yours: ``offramp train finetune --init MODEL --data FOLDER``.

Evidence (benchmarks/results/finetune.md): the CIFAR-10 model of the package, 20 classes of CIFAR-100 with 50 images each, 20
epochs on one core of an AMD EPYC (Zen 3) shared with other work, torch 2.13.0 for CPU, 9 to 12 minutes; top-1 on the 2,000
test images at exits 0 to 4: 55.4, 58.1, 59.4, 60.6, 59.7 % (mean of 3 seeds, sd 0.6 to 2.4); from scratch in as many steps
37.9, 39.1, 40.5, 40.6, 41.1 %.
"""

from offramp.train.recipe import Recipe

RECIPES = {
    "finetune": Recipe(
        epochs=20,
        batch_size=32,
        learning_rate=0.02,
        warmup_epochs=1,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.98,
        crop_pad=4,
        backbone_rate=0.5,
    )
}
