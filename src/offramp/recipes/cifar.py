"""Recipes for CIFAR."""

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
