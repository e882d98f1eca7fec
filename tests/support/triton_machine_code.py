"""Compiles the Triton programs for NVIDIA GPUs, which takes no GPU; prints what there is to know of the result as JSON.

To be run with TRITON_INTERPRET=0.

Of each program: instructions that move 16 bytes and 4 bytes a thread, and whether an atomic comes between what others
must see and what it announces.
"""

import json

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from anybatch.optim.kernels import triton_programs as programs

POINTERS = {
    **dict.fromkeys(("chunks", "first", "arrivals"), "*i32"),
    **dict.fromkeys(("settings", "squares", "clip", "record", "sums", "limit", "verdict", "totals"), "*fp64"),
    "estimates": "*fp32",
    "layers": "*i64",
}
FP32 = {"X_DTYPE": tl.float32, "GRADIENT_DTYPE": tl.float32, "PARAMETER_DTYPE": tl.float32, "RATE_DTYPE": None}
BF16 = dict.fromkeys(("X_DTYPE", "GRADIENT_DTYPE", "PARAMETER_DTYPE"), tl.bfloat16) | {"RATE_DTYPE": None}
MASTERS = {**BF16, "X_DTYPE": tl.float32, "RATE_DTYPE": tl.float32}
LAMB, AVERAGE, SUM = range(3)
PROGRAMS = [
    (programs.measure, {**FP32, "KIND": LAMB, "NESTEROV": 0, "CLIP": False}),
    (programs.measure, {**MASTERS, "KIND": LAMB, "NESTEROV": 2, "CLIP": True}),
    (programs.apply, {**FP32, "KIND": LAMB, "NESTEROV": 0, "CLIP": False}),
    (programs.apply, {**MASTERS, "KIND": LAMB, "NESTEROV": 2, "CLIP": True}),
    (programs.measure, {**FP32, "KIND": AVERAGE, "NESTEROV": 0, "CLIP": False}),
    (programs.measure, {**BF16, "KIND": SUM, "NESTEROV": 0, "CLIP": True}),
    (programs.apply, {**FP32, "KIND": SUM, "NESTEROV": 1, "CLIP": False}),
    (programs.apply, {**MASTERS, "KIND": AVERAGE, "NESTEROV": 0, "CLIP": True}),
    (programs.look_at_gradients, {"GRADIENT_DTYPE": tl.float32}),
    (programs.add_up_layers, {}),
]


def examine(program, constants, capability):
    constants = {**constants, "BLOCK": 1024, **({"CHUNK": 32768} if "CHUNK" in program.arg_names else {})}
    signature = {name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in program.arg_names}
    hints = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(program.arg_names) if name in POINTERS}
    source = ASTSource(fn=program, signature=signature, constexprs=constants, attrs=hints)
    options = {"enable_fp_fusion": False, "num_warps": 4}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    lines = compiled.asm["ptx"].splitlines()
    return {
        "program": program.__name__,
        "capability": capability,
        "wide_loads": sum("ld.global.v4" in line for line in lines),
        "single_loads": sum("@" in line and ("ld.global.b32" in line or "ld.global.b16" in line) for line in lines),
        "contracted": sum("fma.rn.f32" in line for line in lines),
        "approximate": sum("approx" in line for line in lines),
        "local_memory": sum(".local" in line for line in lines),
        "order": [
            word
            for line in lines
            for mark, word in (
                ("st.global", "store"),
                ("atom.global.gpu.acq_rel", "atomic"),
                ("ld.global.cg", "past L1"),
            )
            if mark in line
        ],
    }


if __name__ == "__main__":
    print(json.dumps([examine(*each, capability) for each in PROGRAMS for capability in (80, 90)]))
