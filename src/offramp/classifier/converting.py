"""Converting a classifier whose network has learned its groups."""

from collections import Counter

from offramp.classifier.classifier import Classifier
from offramp.classifier.folder import fast
from offramp.errors import ConfigError
from offramp.measure.forms import fastest_forms
from offramp.nets.condensenet import CondenseNet
from offramp.nets.condensenet import convert as convert_net


def convert(classifier: Classifier, *, condense_classifier: bool = False) -> Classifier:
    """A classifier that computes only what training has left of its CondenseNet, each layer in the form fastest here.

    Its answers are the same up to rounding, unless the classifier is condensed. Weights have changed, so that it has to be
    calibrated anew.

    Args:
        classifier: with a CondenseNet trained to its end; stays as it is.
        condense_classifier: let the last linear layer read only half of its inputs, as the paper does. This costs accuracy
            until it has been fine-tuned (:func:`offramp.train.halving.fine_tune`).

    Raises:
        ConfigError: another network, or one not trained to its end.
    """
    net = classifier.net
    if not isinstance(net, CondenseNet):
        raise ConfigError(
            f"a network of family '{net.config.family}' learns no groups, so there is nothing to convert; "
            "that is for CondenseNets"
        )
    forms = fastest_forms(net)
    made = convert_net(net, forms, condense_classifier=condense_classifier)
    about = classifier.about | {
        "converted": {"forms": dict(Counter(forms)), "condensed_classifier": condense_classifier}
    }
    return Classifier(fast(made), classifier.classes, classifier.preprocessing, storage=classifier.storage, about=about)
