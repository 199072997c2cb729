"""The int8 peer computes what the packed net does, also for ties and units with negative gamma."""

import numpy as np
import pytest

from reproduce.benchmarks import cells as nets
from reproduce.benchmarks import peer_onnx


@pytest.mark.skipif(peer_onnx.missing() is not None, reason=str(peer_onnx.missing()))
@pytest.mark.parametrize("name", nets.CELLS)
@pytest.mark.parametrize("images", [1, 37])
def test_classes_are_the_packed_nets(name, images):
    settings = nets.cell_settings(name, quick=True)
    if name != "MNIST MLP":
        wider = settings.net.model_copy(update={"channels": [16, 24], "dense": [40, 24]})
        settings = settings.model_copy(update={"net": wider})
    net, _ = nets.random_net(settings)
    rules = [layer.rule for layer in (net.first, *net.hidden)]
    assert all(rule.below.any() and not rule.below.all() for rule in rules)
    shape = (images, *net.image)
    given = np.random.default_rng(images).integers(0, 256, shape).astype(np.uint8)
    found = peer_onnx.classifier(net, 1)(given)
    assert np.array_equal(found, net.predict(given, "reference"))
    if images > 1:
        assert len(set(found)) > 2
