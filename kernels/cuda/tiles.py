"""The CUDA kernels: sources, targets, and the tile sizes that kernel and host share.

The sizes are passed to a kernel as preprocessor definitions, so they are defined only here.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
REGISTERS_AN_SM = 65536


@dataclass(frozen=True, eq=False)
class Kernel:
    """One source file and its constants.

    `architectures`: its targets, as NVRTC spells them after "sm_". `entries`: the kernels in it. `threads`: of a
    block. `shared_bytes`: dynamic shared memory of a block. `and_form`: whether a product counts the ones of
    a and b, otherwise of a xor b (src/common.cuh). `instruction`: the tensor-core instruction that the machine
    code must contain, if any.
    """

    name: str
    architectures: tuple[str, ...]
    entries: tuple[str, ...]
    threads: int
    shared_bytes: int = 0
    and_form: bool = True
    instruction: str | None = None
    constants: dict[str, int] = field(default_factory=dict)

    @cached_property
    def source(self) -> str:
        """The whole text: shared part, generated instruction, constants and kernel."""
        parts = [(SOURCES / "common.cuh").read_text()]
        parts += [f"#define {name} {value}" for name, value in self.constants.items()]
        if self.name == "wgmma":
            parts.append(wgmma_wrapper())
        text = (SOURCES / f"{self.name}.cu").read_text()
        parts.append(text.replace('#include "mma.cuh"', (SOURCES / "mma.cuh").read_text()))
        return "\n".join(parts)

    def __getitem__(self, constant: str) -> int:
        return self.constants[constant]


EVERY = ("80", "86", "89", "90", "90a", "100", "120")
WGMMA_N = 256
TABLE_COLUMNS = 256  # tables are padded to a multiple of the widest tile


def wgmma_wrapper() -> str:
    """`multiply`: one wgmma m64n256k256 on 128 accumulators, whose old values are ignored where `add` is 0."""
    registers = WGMMA_N // 2
    outputs = ", ".join(f"%{i}" for i in range(registers))
    bound = ", ".join(f'"+r"(c[{i}])' for i in range(registers))
    return (
        "#ifdef __CUDACC__\n"
        f"__device__ __forceinline__ void multiply(u32 (&c)[{registers}], u64 a, u64 b, u32 add) {{\n"
        '    asm volatile("{\\n.reg .pred p;\\n'
        f'setp.ne.b32 p, %{registers + 2}, 0;\\n"\n'
        f'        "wgmma.mma_async.sync.aligned.m64n{WGMMA_N}k256.s32.b1.b1.and.popc {{{outputs}}}, "\n'
        f'        "%{registers}, %{registers + 1}, p;\\n}}"\n'
        f'        : {bound}\n        : "l"(a), "l"(b), "r"(add));\n'
        "}\n#endif\n"
    )


def naive(side: int = 16) -> Kernel:
    """The paper's unoptimized product over tiles of `side` x `side` floats."""
    return Kernel("naive", EVERY, ("naive_product",), side * side, constants={"TILE_SIDE": side})


def rows() -> Kernel:
    """Packing and other work row by row."""
    kinds = "float32 float64 float16 bfloat16 int8 int16 int32 int64 bool"
    helpers = (
        "count_rows table_of unpack_float finish_float threshold_rows windows pixel_windows maxpool argmax_of"
    )
    entries = (*(f"pack_{kind}" for kind in kinds.split()), *helpers.split())
    return Kernel("rows", EVERY, entries, 256)


def xnor(tile_m: int = 64, tile_n: int = 128, tile_k: int = 64, rows: int = 8, stages: int = 3) -> Kernel:
    """Xor and popcount; tile_m and tile_n in outputs, tile_k in bytes, `rows` a warp, `stages` buffers."""
    return Kernel(
        "xnor",
        EVERY,
        ("xnor_product", "xnor_bits"),
        threads=tile_m // rows * 32,
        shared_bytes=stages * (tile_m + tile_n) * (tile_k + 16),
        and_form=False,
        constants={
            "TILE_M": tile_m, "TILE_N": tile_n, "TILE_K": tile_k, "ROWS": rows, "STAGES": stages, "GROUP": 16,
        },
    )  # fmt: skip


def bmma(
    tile_m: int = 128, tile_n: int = 256, tile_k: int = 64, warp_m: int = 64, warp_n: int = 64, stages: int = 4
) -> Kernel:
    """Tensor cores by mma.sync; tiles of a block and of a warp in outputs, tile_k in bytes, `stages` buffers."""
    return Kernel(
        "bmma",
        ("80", "86", "89", "90", "90a"),
        ("bmma_product", "bmma_bits"),
        threads=(tile_m // warp_m) * (tile_n // warp_n) * 32,
        shared_bytes=stages * (tile_m + tile_n) * tile_k,
        instruction="BMMA.168256.AND",
        constants={
            "TILE_M": tile_m, "TILE_N": tile_n, "TILE_K": tile_k, "WARP_M": warp_m, "WARP_N": warp_n,
            "STAGES": stages, "GROUP": 8,
        },
    )  # fmt: skip


def bytes_by_signs(
    tile_m: int = 128, tile_n: int = 128, tile_k: int = 64, warp_m: int = 64, warp_n: int = 32, stages: int = 3
) -> Kernel:
    """Products of bytes on tensor cores; tiles as in `bmma`."""
    return Kernel(
        "bytes",
        EVERY,
        ("bytes_product", "bytes_bits"),
        threads=(tile_m // warp_m) * (tile_n // warp_n) * 32,
        shared_bytes=stages * (tile_m + tile_n) * tile_k,
        instruction="IMMA.16832",
        constants={
            "TILE_M": tile_m, "TILE_N": tile_n, "TILE_K": tile_k, "WARP_M": warp_m, "WARP_N": warp_n,
            "STAGES": stages, "GROUP": 8,
        },
    )  # fmt: skip


def wgmma(consumers: int = 2, stages: int = 4, producer: int = 40, consumer: int = 232) -> Kernel:
    """Tensor cores by wgmma: `consumers` warpgroups of 64 rows each, `stages` buffers, registers of a thread
    that copies and of one that multiplies. Three consumers would leave too few registers for 256 columns."""
    stage = (64 * consumers + WGMMA_N) * 128
    return Kernel(
        "wgmma",
        ("90a",),
        ("wgmma_product", "wgmma_bits"),
        threads=128 * (consumers + 1),
        # the buffers, up to 1023 bytes to align them, and two barriers a stage
        shared_bytes=stages * stage + 1024 + stages * 16,
        instruction="BGMMA",
        constants={
            "CONSUMERS": consumers, "STAGES": stages, "GROUP": 16,
            "PRODUCER_REGISTERS": producer, "CONSUMER_REGISTERS": consumer,
        },
    )  # fmt: skip


NAIVE, ROWS, XNOR, BMMA, WGMMA, BYTES = naive(), rows(), xnor(), bmma(), wgmma(), bytes_by_signs()
UPDATES = Kernel(
    "updates",
    EVERY,
    ("update_adam", "update_shift_adamax"),
    threads=256,
    constants={"CHUNK": 2048, "MOST_PARTS": 50},  # the parts are passed as one argument, of at most 4 KiB
)
PASSES = Kernel(
    "passes",
    EVERY,
    (
        *("step_images", "step_forward", "step_backward", "step_hinge", "conv_statistics", "conv_moments"),
        *("conv_forward", "conv_sums", "conv_totals", "conv_backward"),
    ),
    threads=512,
    constants={"COLUMNS": 32, "GROUPS": 16, "KEPT": 16},
)
KERNELS = (NAIVE, ROWS, XNOR, BMMA, WGMMA, BYTES, UPDATES, PASSES)
