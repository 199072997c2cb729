"""Packing: the bit of each value, accepted arrays, refused arrays."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels import LocalThresholds, Packed, Rule, Thresholds, pack, pixels, reals, unpack, updates, xnor_matmul

LENGTHS = [1, 31, 32, 33, 63, 64, 65, 127, 1000, 100003]
FLOATS = ["float64", "float32", "float16"]


def expected_words(bits):
    """One Python integer for each row, bit i from element i."""
    return [sum(1 << i for i, bit in enumerate(row) if bit) for row in bits]


def words_as_integers(p):
    return [sum(int(word) << (64 * j) for j, word in enumerate(row)) for row in p.words]


@pytest.mark.parametrize("k", LENGTHS)
def test_bit_i_of_word_j_is_element_64j_plus_i(way, signs, k):
    x = signs(3, k)
    p = pack(x.astype(np.float32), way)
    assert p.shape == (3, k) and p.words.shape == (3, -(-k // 64)) and p.words.dtype == np.uint64
    assert words_as_integers(p) == expected_words(x > 0)  # bits beyond k are zero, or the integers differ
    assert np.array_equal(unpack(p), x) and unpack(p).dtype == np.int8


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "int16", "int32", "int64", "bool"])
@pytest.mark.parametrize("k", [1, 7, 64, 200])
def test_every_numpy_dtype(way, dtype, k):
    x = np.random.default_rng(k).integers(-3, 4, (5, k))
    want = x != 0 if dtype == "bool" else x >= 0
    assert np.array_equal(unpack(pack(x.astype(dtype), way)) > 0, want)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool],
)
def test_every_torch_dtype(way, dtype):
    x = torch.tensor(np.random.default_rng(1).integers(-3, 4, (5, 131)))
    want = x != 0 if dtype == torch.bool else x >= 0
    assert np.array_equal(unpack(pack(x.to(dtype), way)) > 0, want.numpy())


def test_torch_views_and_gradients(way):
    x = torch.randn(6, 70, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    view = x[::2, 1::3].transpose(1, 2)
    want = (view >= 0).numpy()
    assert np.array_equal(unpack(pack(view, way)) > 0, want)
    assert np.array_equal(unpack(pack(view.bfloat16(), way)) > 0, want)


@pytest.mark.parametrize("dtype", FLOATS)
def test_edges_of_the_floating_point_sign(way, dtype):
    tiny, inf = np.finfo(dtype).smallest_subnormal, np.inf
    x = np.array([[0.0, -0.0, tiny, -tiny, inf, -inf, 1, -1]], dtype)
    x = np.repeat(x, 9, axis=1)  # 72 values, so that each is in the vector loop and in the tail
    assert np.array_equal(unpack(pack(x, way)) > 0, np.repeat([[1, 1, 1, 0, 1, 0, 1, 0]], 9, axis=1))


def test_edges_of_the_bfloat16_sign(way):
    x = torch.tensor([[0.0, -0.0, 1e-38, -1e-38, torch.inf, -torch.inf]]).bfloat16()
    assert unpack(pack(x, way)).tolist() == [[1, 1, 1, -1, 1, -1]]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("at", [(0, 0), (2, 63), (1, 64), (2, 129)])
def test_nan_is_refused_at_any_position(way, dtype, at, sign):
    x = np.ones((3, 130), dtype)
    x[at] = np.copysign(np.nan, sign)
    for same in [x, torch.from_numpy(x).bfloat16()] if dtype == "float32" else [x]:
        with pytest.raises(ValueError, match="NaN"):
            pack(same, way)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2],
        lambda x: x[::-1],
        lambda x: x[:, ::3],
        lambda x: x[:, ::-1],
        lambda x: x.T,
        lambda x: x[3:4],
        lambda x: x[:, 5:6],
        lambda x: np.broadcast_to(x[2], (4, x.shape[1])),
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(x.dtype.newbyteorder()),
        lambda x: x.reshape(5, 2, -1, 7).transpose(2, 0, 3, 1),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1, count=x.size).reshape(x.shape),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_views_of_any_stride(way, view, dtype):
    x = view(np.random.default_rng(0).integers(-9, 9, (10, 210)).astype(dtype))
    assert np.array_equal(unpack(pack(x, way)) > 0, x >= 0)


def test_a_read_only_array_is_packed_and_left_alone(way):
    x = np.linspace(-1, 1, 300, dtype=np.float32).reshape(3, 100)
    x.flags.writeable = False
    assert np.array_equal(unpack(pack(x, way)) > 0, x >= 0)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (1, 1)])
def test_empty_leading_axes(way, shape):
    assert pack(np.ones(shape), way).shape == shape


@given(
    dtype=st.sampled_from(FLOATS),
    lead=st.lists(st.integers(0, 12), max_size=2),
    k=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packing_keeps_every_sign(way, dtype, lead, k, seed):
    shape = (*lead, k)
    octets = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    x = np.frombuffer(octets, dtype).reshape(shape).copy()  # any bit pattern: subnormals, infinities
    x[np.isnan(x)] = -0.0
    assert np.array_equal(unpack(pack(x, way)), np.where(x >= 0, 1, -1))


@pytest.mark.parametrize("x", [np.ones((2, 2), np.uint8), np.ones((2, 2), complex), np.array([["a"]])])
def test_elements_without_a_sign_are_refused(x):
    with pytest.raises(TypeError, match="cannot pack"):
        pack(x)


def test_unsigned_values_are_refused_with_a_hint():
    with pytest.raises(TypeError, match="give bool"):
        pack(torch.zeros(2, 2, dtype=torch.uint8))


@pytest.mark.parametrize(
    "x", [[[1.0, -1.0]], 3.0, None, torch.ones(2, 2).to_sparse(), torch.ones(2, 2, device="meta")]
)
def test_other_objects_are_refused(x):
    with pytest.raises(TypeError, match="cannot pack"):
        pack(x)


class Quantity(np.ndarray):
    """An array with a unit."""


CARRYING = {
    "a masked array": lambda: np.ma.array([[1.0, -2.0, np.nan]], mask=[[0, 0, 1]]),
    "a masked array without NaN": lambda: np.ma.array([[1.0, -2.0]], mask=[[0, 1]]),
    "an array with a unit": lambda: np.ones((2, 3)).view(Quantity),
    "a masked tensor": lambda: torch.masked.masked_tensor(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)),
    "a quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 3, torch.qint8),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.parametrize("what", CARRYING)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_arrays_that_carry_more_than_numbers_are_refused(way, what):
    x = CARRYING[what]()
    with pytest.raises(TypeError, match="not accepted"):
        pack(x, way)


def test_every_public_function_refuses_a_mask():
    one = np.ma.array(np.ones((1, 1, 1, 1)), mask=True)
    w, floats, integers = pack(np.ones((1, 1, 1, 1))), one.astype(np.float32), one.astype(np.int64)[0, 0, 0]
    calls = [
        lambda: Packed(one.astype(np.uint64), 64),
        lambda: Thresholds(integers),
        lambda: Thresholds([1], integers == 1),
        lambda: LocalThresholds(one.astype(np.int64)[0], np.zeros(1, bool), np.zeros(1, int), np.zeros(1, int)),
        lambda: pixels.pixel_conv2d(one.astype(np.uint8), w),
        lambda: reals.signs(floats[0]),
        lambda: reals.real_matmul(floats[0, 0], reals.signs(np.ones((1, 1), np.float32))),
        lambda: updates.update(Rule("sgd", 0, 0, 1, 1, 1), *[floats] * 4),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"not accepted|MaskedArray"):
            call()


def test_plain_kinds_of_array_are_accepted(tmp_path, way):
    np.save(tmp_path / "x.npy", np.array([[1.0, -1.0]]))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    for x in (mapped, torch.nn.Parameter(torch.tensor([[1.0, -1.0]]))):
        assert np.array_equal(unpack(pack(x, way)), [[1, -1]])


@pytest.mark.parametrize("x", [np.ones((3, 0)), np.ones(0), np.array(1.0)])
def test_k_of_zero_and_scalars_are_refused(x):
    with pytest.raises(ValueError):
        pack(x)


def test_a_packed_array_passes_through():
    p = pack(np.ones((2, 3)))
    assert pack(p) is p


def test_a_packed_array_is_fixed():
    p = pack(np.ones((2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        p.words[0, 0] = 0


def words_and_writer(kind):
    """Words for a packed array (3, 64), all +1, and an array over the same memory that can be written to."""
    base = np.full((4, 1), 2**64 - 1, np.uint64)
    if kind == "a view":
        return base[1:], base[1:]
    if kind == "a read-only view":
        view = base[1:]
        view.flags.writeable = False
        return view, base[1:]
    if kind == "an array with a view":
        return base, base[:]
    buffer = bytearray(base.tobytes())
    return np.frombuffer(buffer, np.uint64).reshape(4, 1), np.frombuffer(buffer, np.uint64).reshape(4, 1)


@pytest.mark.parametrize("kind", ["a view", "a read-only view", "an array with a view", "a buffer"])
def test_writing_to_the_memory_of_given_words_does_not_change_a_packed_array(way, kind):
    words, writer = words_and_writer(kind)
    p, other = Packed(words, 64), pack(np.ones((1, 64)))
    before = xnor_matmul(p, other, way)
    assert (before == 64).all()
    writer[:] = 0
    assert (xnor_matmul(p, other, way) == 64).all() and (unpack(p) == 1).all()


def test_words_that_nobody_can_write_to_are_not_copied(way):
    own = np.zeros((3, 1), np.uint64)
    own.flags.writeable = False
    for words in (own, own[1:], np.frombuffer(bytes(24), np.uint64).reshape(3, 1)):
        assert Packed(words, 64).words is words
    if way == "cpu":
        assert pack(np.ones((5, 70)), way).words.base.base is None  # the result of a backend is not copied either


@pytest.mark.parametrize(
    ("words", "k", "error"),
    [
        (np.zeros((2, 2), np.int64), 100, TypeError),
        ([[0]], 5, TypeError),
        (np.zeros((2, 2), np.uint64), 64, ValueError),
        (np.zeros((2, 2), np.uint64), 129, ValueError),
        (np.zeros((2, 0), np.uint64), 0, ValueError),
        (np.zeros((4, 4), np.uint64)[:, ::2], 100, ValueError),
        (np.full((2, 1), 1 << 40, np.uint64), 40, ValueError),
    ],
)
def test_words_that_are_not_a_packed_array_are_refused(words, k, error):
    with pytest.raises(error):
        Packed(words, k)
