"""Converting a classifier whose network has learned its groups."""

from collections import Counter

from offramp.classifier.classifier import Classifier
from offramp.classifier.folder import fast
from offramp.errors import ConfigError
from offramp.measure.forms import fastest_forms, forms_of
from offramp.nets.condensenet import CondenseNet, Form
from offramp.nets.condensenet import convert as convert_net


def convert(classifier: Classifier, *, condense_classifier: bool = False, form: Form | None = None) -> Classifier:
    """A classifier whose CondenseNet has no masks, each layer in the form that is the fastest here.

    Its answers are the same up to rounding, unless the classifier is condensed. Weights have changed, so that it has to be
    calibrated anew.

    Args:
        classifier: with a CondenseNet trained to its end; stays as it is.
        condense_classifier: let the last linear layer read only half of its inputs, as the paper does. This costs accuracy
            until it has been fine-tuned (:func:`offramp.train.halving.fine_tune`).
        form: of all layers, as far as there is a place for it; ``"grouped"`` computes only what training has left.

    Raises:
        ConfigError: another network, one not trained to its end, or one converted already.
    """
    net = check_convertible(classifier)
    forms = fastest_forms(net) if form is None else forms_of(net.config, form)
    made = convert_net(net, forms, condense_classifier=condense_classifier)
    about = classifier.about | {
        "converted": {"forms": dict(Counter(forms)), "condensed_classifier": condense_classifier}
    }
    return Classifier(fast(made), classifier.classes, classifier.preprocessing, storage=classifier.storage, about=about)


def check_convertible(classifier: Classifier) -> CondenseNet:
    """The network, if groups of it can be converted; whether it was trained to its end shows when it is.

    Raises:
        ConfigError: another network, one that learns no groups, or one converted already.
    """
    net = classifier.net
    if not isinstance(net, CondenseNet):
        raise ConfigError(
            f"a network of family '{net.config.family}' learns no groups, so there is nothing to convert; "
            "that is for CondenseNets"
        )
    if not net.config.learned:
        raise ConfigError("this CondenseNet has groups that were given, and nothing to convert")
    if net.config.forms:
        raise ConfigError(
            "this model has been converted already; convert the one it was made of, with --condense-classifier where half of "
            "the classifier is wanted"
        )
    return net
