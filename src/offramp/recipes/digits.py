"""Recipes for the built-in digits."""

from offramp.train.recipe import Recipe

RECIPES = {
    "digits": Recipe(
        variant="msdnet-digits",
        source="digits",
        epochs=16,
        batch_size=64,
        learning_rate=0.1,
        warmup_epochs=2,
        weight_decay=5e-4,
        label_smoothing=0.05,
        ema_decay=0.95,
        crop_pad=2,
        flip=False,
    )
}
