"""Counts of distinct filters, compared with counts by hand and by sets."""

import numpy as np
import pytest
import torch
from made import convnet_settings

from reproduce import nets
from reproduce.campaign import worker
from reproduce.records import Filters, filter_counts


def by_sets(weights, both_signs):
    """The definition, kernel by kernel."""
    shares = []
    for channel in range(weights.shape[1]):
        kernels = [tuple(np.where(k >= 0, 1, -1).ravel()) for k in weights[:, channel]]
        if both_signs:
            kernels = [max(k, tuple(-v for v in k)) for k in kernels]
        shares.append(len(set(kernels)) / len(kernels))
    return float(np.mean(shares))


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (8, 3, 3, 3), (300, 5, 3, 3), (64, 4, 2, 2), (7, 2, 1, 1)])
def test_counts_equal_those_by_sets(shape):
    weights = np.random.default_rng(sum(shape)).normal(size=shape)
    weights[weights < 0.05] = np.minimum(weights[weights < 0.05], 0)  # some are exactly 0, which counts as +1
    found = filter_counts.layer(weights)
    assert found["distinct"] == pytest.approx(by_sets(weights, False), abs=1e-12)
    assert found["distinct_up_to_sign"] == pytest.approx(by_sets(weights, True), abs=1e-12)
    assert (found["maps_out"], found["maps_in"], found["kernel"]) == shape[:3]


def test_a_filter_and_its_negation_are_two_of_512_and_one_of_256():
    one = np.random.default_rng(0).choice([-1.0, 1.0], (1, 1, 3, 3))
    found = filter_counts.layer(np.concatenate([one, -one]))
    assert (found["distinct"], found["distinct_up_to_sign"]) == (1.0, 0.5)


@pytest.mark.parametrize(("maps_out", "classes"), [(128, 512), (256, 512), (512, 512), (128, 256), (512, 256)])
def test_random_share_is_what_random_signs_give(maps_out, classes):
    weights = np.random.default_rng(1).normal(size=(maps_out, 400, 3, 3))
    key = {512: "distinct", 256: "distinct_up_to_sign"}[classes]
    expected = filter_counts.random_share(classes, maps_out)
    assert filter_counts.layer(weights)[key] == pytest.approx(expected, abs=0.005)


def test_record_of_a_net_holds_its_layers_and_its_first_filters():
    settings = convnet_settings()
    net = nets.build(settings)
    found = filter_counts.of_net(net.state_dict())
    assert [(f["maps_in"], f["maps_out"]) for f in found["layers"]] == [(3, 4), (4, 4), (4, 8), (8, 8)]
    kept = Filters.model_validate(found)
    signs = torch.where(net.blocks[0].layer.weight >= 0, 1, -1)
    for index, text in enumerate(kept.first):
        assert [1 if c == "1" else -1 for c in text] == signs[index].flatten().tolist()
    assert filter_counts.of_net({"blocks.0.layer.weight": torch.zeros(3, 2)}) is None


def test_only_binary_nets_have_filters_to_count():
    settings = convnet_settings()
    state = nets.build(settings).state_dict()
    assert worker.kept_filters(settings, state) is not None
    plain = settings.model_copy(update={"net": settings.net.model_copy(update={"weights": "float"})})
    assert worker.kept_filters(plain, state) is None
