"""Training a model further on images of yours: ``offramp train finetune --init MODEL --data FOLDER``.

Evidence: benchmarks/results/finetune.md.
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
