"""Checks the machine code of every CUDA kernel, without a GPU: python -m kernels.cuda.check [--json FILE].

Each kernel is compiled for each of its targets. Registers, spills and shared memory are read from the assembler's
report; instructions are counted where nvdisasm is found (on the PATH or in the package nvidia-cuda-nvdisasm). Exit
code 1 where a limit is exceeded.
"""

import argparse
import collections
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from kernels.cuda import nvrtc, tiles

# largest dynamic shared memory of a block (CUDA C++ Programming Guide, "Compute Capabilities")
SHARED_LIMIT = {"80": 163, "86": 99, "89": 99, "90": 227, "90a": 227, "100": 227, "120": 99}
_ENTRY = re.compile(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", re.S)
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]*)", re.M)


@dataclass(frozen=True)
class Report:
    """One entry of one kernel on one target. `shared_bytes` is a block's; `tensor` counts tensor-core
    instructions and `local` reads and writes of local memory, None without nvdisasm."""

    kernel: str
    entry: str
    target: str
    threads: int
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int
    tensor: dict[str, int] | None
    local: int | None
    complaints: tuple[str, ...]


def nvdisasm() -> str | None:
    """Path of the disassembler, or None."""
    if found := shutil.which("nvdisasm"):
        return found
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*/bin/nvdisasm")):
            return str(path)
    return None


def opcodes(cubin: bytes, tool: str) -> dict[str, collections.Counter[str]]:
    """How often each instruction occurs in each function of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    text = re.sub(r"CALL\S* `\(\.L_", "BRA `(.L_", text)  # leaves a loop, calls no function
    sections = re.split(r"^\s*\.section\s+\.text\.(\w+)", text, flags=re.M)
    names, bodies = sections[1::2], sections[2::2]
    return {name: collections.Counter(_OPCODE.findall(body)) for name, body in zip(names, bodies, strict=True)}


def check(kernel: tiles.Kernel, target: str, tool: str | None) -> list[Report]:
    """Reports on every entry of a kernel. Raises nvrtc.CompileError."""
    compiled = nvrtc.compile_cubin(kernel.source, kernel.name, target)
    counted = opcodes(compiled.cubin, tool) if tool else None
    reports = []
    for entry, said in _ENTRY.findall(compiled.log):
        stack, stores, loads = (
            _number(rf"(\d+) bytes {what}", said) for what in ("stack frame", "spill stores", "spill loads")
        )
        registers, static = _number(r"Used (\d+) registers", said), _number(r"(\d+) bytes smem", said)
        codes = None if counted is None else counted[entry]
        tensor = None if codes is None else {c: n for c, n in codes.items() if re.match(r"[A-Z]?(MMA|GMMA)", c)}
        local = None if codes is None else sum(n for c, n in codes.items() if c.split(".")[0] in ("LDL", "STL"))
        complaints = []
        if stores or loads or stack or local:
            complaints.append("local memory")
        if kernel.threads * registers > tiles.REGISTERS_AN_SM:
            complaints.append("too many registers")
        if kernel.shared_bytes + static > SHARED_LIMIT[target] << 10:
            complaints.append("too much shared memory")
        if tensor is not None and kernel.instruction and not any(kernel.instruction in c for c in tensor):
            complaints.append(f"no {kernel.instruction}")
        if codes is not None and kernel.instruction and any(c.startswith("CALL") for c in codes):
            complaints.append("calls")  # the emulation of an instruction that the target lacks
        reports.append(
            Report(
                kernel.name, entry, target, kernel.threads, registers, stores + loads, stack,
                kernel.shared_bytes + static, tensor, local, tuple(complaints),
            )
        )  # fmt: skip
    if sorted(r.entry for r in reports) != sorted(kernel.entries):
        raise nvrtc.CompileError(f"{kernel.name} has entries {[r.entry for r in reports]}")
    return sorted(reports, key=lambda report: report.entry)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; see the module."""
    parser = argparse.ArgumentParser(prog="python -m kernels.cuda.check", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    tool = nvdisasm()
    cases = [(kernel, target) for kernel in tiles.KERNELS for target in kernel.architectures]
    reports = [report for case in cases for report in check(*case, tool)]
    print(f"NVRTC {'.'.join(map(str, nvrtc.compiler().version))}, disassembler: {tool or 'none'}")
    print(f"{'entry':16} {'target':>6} {'threads':>7} {'regs':>4} {'spill':>5} {'shared':>7}  tensor cores")
    for r in reports:
        words = "?" if r.tensor is None else ", ".join(f"{n} {c}" for c, n in r.tensor.items())
        wrong = f"  WRONG: {'; '.join(r.complaints)}" if r.complaints else ""
        print(
            f"{r.entry:16} {'sm_' + r.target:>6} {r.threads:7} {r.registers:4} {r.spilled_bytes:5} "
            f"{r.shared_bytes:7}  {words}{wrong}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in reports], indent=1) + "\n")
    return int(any(r.complaints for r in reports))


if __name__ == "__main__":
    sys.exit(main())
