"""``offramp list``."""

from offramp.cli.options import Json


def run(json: Json = False) -> None:
    """List networks, shipped models, data sets and recipes."""
    from offramp.catalog import entries
    from offramp.classifier.entry import shipped_models
    from offramp.cli.show import say_json, say_table
    from offramp.report.tables import Table

    networks, sources, recipes = entries("nets", "VARIANTS"), entries("data", "SOURCES"), entries("recipes", "RECIPES")
    if json:
        say_json(
            {"networks": list(networks), "models": shipped_models(), "data": list(sources), "recipes": list(recipes)}
        )
        return
    say_table(
        "Networks (offramp cost NAME; offramp.create(NAME))",
        Table(
            ("name", "family", "image", "classes"),
            tuple(
                (name, c.family, f"{c.image_size}x{c.image_size}", str(c.num_classes)) for name, c in networks.items()
            ),
        ),
    )
    say_table(
        "Models in the package (offramp predict NAME IMAGES…)", Table(("name",), tuple((n,) for n in shipped_models()))
    )
    say_table(
        "Data sets (--data NAME; or --data FOLDER with a folder of images per class)",
        Table(
            ("name", "classes", "held out", "where"),
            tuple(
                (
                    name,
                    str(len(s.classes) or "its folders"),
                    f"{s.holdout:,}",
                    "--data-root DIR" if s.needs_root else "built in",
                )
                for name, s in sources.items()
            ),
        ),
    )
    say_table(
        "Recipes (offramp train NAME)",
        Table(
            ("name", "network", "data", "epochs"),
            tuple(
                (name, r.variant or "--init MODEL", r.source or "--data …", str(r.epochs))
                for name, r in recipes.items()
            ),
        ),
    )
