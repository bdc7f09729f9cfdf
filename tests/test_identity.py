import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.classifier.identity import Storage, identity_of, stored_form, weights_digest
from offramp.data.preprocess import Preprocessing
from tiny import PREPROCESSING, make_classifier, make_net

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)}


def test_fp16_storage_halves_weights_and_keeps_norms_and_counters() -> None:
    kept = stored_form(STATE, "fp16")
    assert {name: tensor.dtype for name, tensor in kept.items()} == {
        "a.weight": torch.float16,
        "b": torch.float32,
        "n": torch.int64,
    }


def test_fp32_storage_keeps_everything() -> None:
    kept = stored_form(STATE, "fp32")
    assert all(torch.equal(kept[name], STATE[name]) for name in STATE)
    assert kept["a.weight"].dtype == torch.float32


def test_what_is_stored_is_contiguous_and_needs_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    kept = stored_form({"weight": weight}, "fp32")["weight"]
    assert kept.is_contiguous()
    assert not kept.requires_grad
    assert torch.equal(kept, weight)


def test_the_digest_depends_on_neither_order_nor_memory_layout() -> None:
    image = torch.randn(2, 3, 4, 4)
    other = {"b": torch.ones(2), "image": image.to(memory_format=torch.channels_last)}
    assert weights_digest({"image": image, "b": torch.ones(2)}) == weights_digest(other)


@pytest.mark.parametrize(
    "change",
    [
        {"c": torch.ones(4)}, {"a": torch.zeros(4)}, {"a": torch.ones(2, 2)}, {"a": torch.ones(4, dtype=torch.int32)},
        {"a": torch.ones(4).half()}, {"a": torch.ones(4), "b": torch.ones(1)},
    ],
    ids=["name", "bytes", "shape", "dtype", "precision", "one more"],
)  # fmt: skip
def test_the_digest_depends_on_names_types_shapes_and_bytes(change: dict[str, torch.Tensor]) -> None:
    assert weights_digest(change) != weights_digest({"a": torch.ones(4)})


@given(st.integers(0, 5), st.integers(0, 31))
def test_a_single_flipped_bit_changes_the_digest(row: int, bit: int) -> None:
    values = np.arange(6, dtype=np.float32)
    flipped = values.copy()
    flipped.view(np.uint32)[row] ^= np.uint32(1 << bit)
    assert weights_digest({"a": torch.from_numpy(values)}) != weights_digest({"a": torch.from_numpy(flipped)})


def test_the_identity_depends_on_weights_precision_rule_and_preprocessing() -> None:
    shifted = Preprocessing(16, (0.5,), (0.25,))
    same = ("digest", "fp32", "this-exit", PREPROCESSING)
    others = [
        ("other", "fp32", "this-exit", PREPROCESSING), ("digest", "bf16", "this-exit", PREPROCESSING),
        ("digest", "fp32", "ensemble", PREPROCESSING), ("digest", "fp32", "this-exit", shifted),
        ("digest", "fp32", "this-exit", None),
    ]  # fmt: skip
    found = [identity_of(*parts) for parts in (same, *others)]
    assert len(set(found)) == len(found)
    assert identity_of(*same) == found[0]


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_a_classifiers_identity_is_that_of_its_weights_as_stored(storage: Storage) -> None:
    classifier = make_classifier(calibrated=False, storage=storage)
    digest = weights_digest(stored_form(make_net().state_dict(), storage))
    assert classifier.identity == identity_of(digest, "fp32", "this-exit", PREPROCESSING)
    assert classifier.identity != make_classifier(seed=1, calibrated=False, storage=storage).identity
