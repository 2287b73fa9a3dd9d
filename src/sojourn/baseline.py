"""The law of a fleet's common CPU: what its nodes can all do, and the environment that keeps programs to it.

A program looks once at the CPU it starts on and then uses the widest instructions there are; on a lesser one it would
end with SIGILL. It can't be told what another CPU has, but the libraries that do nearly all of the looking can be told
what not to use, by environment variables. A session born with them (`SessionSpec.cpu` = "fleet") may go wherever its
baseline's flags are. Flags are written as Linux writes them in /proc/cpuinfo.

Libraries differ in when a variable counts and what it may hold, so each has its own few lines here; where its words
come from stands beside them. What no variable reaches (a program that asks CPUID itself) is beyond this law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from sojourn.model import Baseline, Capabilities

Flags = frozenset[str]
_NONE: Final[Mapping[str, str]] = {}

_NOT_FOR_PROGRAMS: Final = (
    # what only a kernel or a hypervisor uses, and how quick or how safe a CPU is (arch/x86/include/asm/cpufeatures.h)
    "vme de pse msr pae mce apic mtrr pge mca pat pse36 dts acpi ss ht tm pbe nx pdpe1gb fxsr_opt mp "
    "constant_tsc up art arch_perfmon pebs bts rep_good acc_power nopl xtopology tsc_reliable nonstop_tsc cpuid "
    "extd_apicid amd_dcm aperfmperf tsc_known_freq rapl nonstop_tsc_s3 dtes64 monitor ds_cpl vmx smx est tm2 cid xtpr "
    "pdcm pcid dca x2apic tsc_deadline_timer sdbg hypervisor cmp_legacy svm extapic cr8_legacy osvw ibs skinit wdt tce "
    "nodeid_msr topoext perfctr_core perfctr_nb bpext ptsc perfctr_llc ring3mwait cpuid_fault cpb epb cat_l3 cat_l2 "
    "cdp_l3 cdp_l2 invpcid_single hw_pstate proc_feedback xcompacted pti intel_ppin amd_ppin msr_spec_ctrl spec_ctrl "
    "ssbd mba smba bmec rsb_ctxsw perfmon_v2 ibrs ibpb stibp ibrs_enhanced ibpb_exit_to_user tpr_shadow flexpriority "
    "ept vpid npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter pfthreshold avic "
    "v_vmsave_vmload vgif x2avic v_spec_ctrl vnmi vmmcall ept_ad tsc_adjust smep smap erms invpcid fsrm fzrm fsrs fsrc "
    "umip cqm rdt_a intel_pt pconfig arch_lbr la57 split_lock_detect bus_lock_detect tme rtm_always_abort md_clear "
    "flush_l1d arch_capabilities core_capabilities hybrid_cpu xsaves xfd cqm_llc cqm_occup_llc cqm_mbm_total "
    "cqm_mbm_local irperf wbnoinvd virt_ssbd amd_ssbd amd_ibrs amd_ibpb amd_stibp amd_ssb_no cppc amd_psfd btc_no brs "
    "succor smca overflow_recov xsaveerptr dtherm ida arat pln pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req "
    "hfi sme sev sev_es sev_snp debug_swap amd_lbr_v2 amd_lbr_pmc_freeze evtstrm"
)
_NEVER_WITHHELD: Final[Mapping[str, Flags]] = {
    # glibc's memcpy and libgcc's atomics ask the kernel, and no variable changes its answer
    "aarch64": frozenset({"atomics", "sve", "mops"}),
}


def instructions(flags: Iterable[str]) -> Flags:
    """Of a CPU's flags those that a program can use, and may miss elsewhere."""
    return frozenset(flags).difference(_NOT_FOR_PROGRAMS.split())


def fleet_of(node: Capabilities, all_nodes: Iterable[Capabilities]) -> list[Capabilities]:
    """The nodes whose CPU matters to a session that starts on `node`: it, and those of its architecture that take part
    in live moves, whether they are online now or not."""
    return [node, *(other for other in all_nodes if other.arch == node.arch and other.strategies)]


def common(fleet: Iterable[Capabilities]) -> Flags:
    """The instructions that each of these nodes has."""
    return frozenset.intersection(*(instructions(node.cpu_flags) for node in fleet))


def of_fleet(node: Capabilities, all_nodes: Iterable[Capabilities], environment: Mapping[str, str] = _NONE) -> Baseline:
    """What a session that starts on `node` is born with, so that it may go to the other nodes. `environment`: what its
    program is told anyway, of which as much is kept as can be."""
    shared = common(fleet_of(node, all_nodes))
    kept = instructions(node.cpu_flags) & _NEVER_WITHHELD.get(node.arch, frozenset())
    return Baseline(flags=tuple(sorted(shared | kept)), env=held_to(node.arch, shared, environment))


def held_to(arch: str, allowed: Flags, environment: Mapping[str, str] = _NONE) -> dict[str, str]:
    """The variables that keep programs to the `allowed` instructions, whatever the CPU they are started on has: a
    session starts programs wherever it goes."""
    return {name: value for hold in _HOLDS.get(arch, ()) for name, value in hold(allowed, environment).items()}


def lacking(baseline: Baseline, node: Capabilities) -> list[str]:
    """The flags that a node lacks for a session with this baseline."""
    return sorted(set(baseline.flags) - set(node.cpu_flags))


def beyond_holding(baseline: Baseline, node: Capabilities) -> list[str]:
    """The flags of a node which the session was not born with, and which no variable would keep it from using there."""
    return sorted((_NEVER_WITHHELD.get(node.arch, frozenset()) & set(node.cpu_flags)) - set(baseline.flags))


Hold = Callable[[Flags, Mapping[str, str]], dict[str, str]]
"""The variables of one library, from the allowed instructions and the environment that is there already."""


_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def _level(flags: Flags) -> int:
    """The micro-architecture level of the x86-64 ABI: 4 is AVX-512, 3 is AVX2; all CPUs since 2009 are 2."""
    return 4 if flags >= _V4 else 3 if flags >= _V3 else 2 if flags >= _V2 else 1


# ── glibc ────────────────────────────────────────────────────────────────────────────────────────────────────


def _glibc(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """`ld.so --list-tunables`; the names are those of glibc's cpu-tunables.c, which passes over those it does not know:
    up to 2.32 some ended in `_Usable`. Symbols are bound at the start: binding one later saves the vector registers
    into room that was measured on the first CPU, and may be too small on another."""
    off = [name for name, flag in _GLIBC.items() if flag not in allowed]
    tunable = "glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in off)
    return {"LD_BIND_NOW": "1"} | ({"GLIBC_TUNABLES": _tuned(environment, tunable)} if off else {})


def _glibc_arm(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    return {"LD_BIND_NOW": "1", "GLIBC_TUNABLES": _tuned(environment, "glibc.cpu.name=generic")}


def _tuned(environment: Mapping[str, str], tunable: str) -> str:
    """The user's own tunables, and this one in the place of theirs of the same name."""
    name = tunable.partition("=")[0]
    others = [one for one in environment.get("GLIBC_TUNABLES", "").split(":") if one and one.partition("=")[0] != name]
    return ":".join([*others, tunable])


_GLIBC: Final[Mapping[str, str]] = {
    "SSSE3": "ssse3", "SSE4_1": "sse4_1", "SSE4_2": "sse4_2", "POPCNT": "popcnt", "MOVBE": "movbe", "LZCNT": "abm",
    "BMI1": "bmi1", "BMI2": "bmi2", "FMA4": "fma4", "RTM": "rtm",
    "AVX": "avx", "AVX_Usable": "avx", "AVX_Fast_Unaligned_Load": "avx",
    "FMA": "fma", "FMA_Usable": "fma", "AVX2": "avx2", "AVX2_Usable": "avx2",
    "AVX512F": "avx512f", "AVX512F_Usable": "avx512f", "AVX512CD": "avx512cd", "AVX512BW": "avx512bw",
    "AVX512DQ": "avx512dq", "AVX512DQ_Usable": "avx512dq", "AVX512VL": "avx512vl",
    "AVX512ER": "avx512er", "AVX512PF": "avx512pf",
}  # fmt: skip

# ── NumPy ────────────────────────────────────────────────────────────────────────────────────────────────────


def _numpy(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """NumPy's "Runtime dispatch": each name is taken away alone, so all above the common ones are named, those of 1.20
    to 2.3 and the groups of 2.4. It passes over names it was not built with (with an ImportWarning), but must not be
    asked to do without what it was built for, which is SSE4.2 at most. Only one of its two variables may be set."""
    return _numpy_without([name for name, needs in _NUMPY.items() if not needs <= allowed], environment)


def _numpy_arm(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    return _numpy_without([name for name, flag in _NUMPY_ARM.items() if flag not in allowed], environment)


def _numpy_without(names: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    if not names:
        return {}
    theirs = environment.get("NPY_DISABLE_CPU_FEATURES", "").replace(",", " ").split()
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(dict.fromkeys(theirs + names)), "NPY_ENABLE_CPU_FEATURES": ""}


_SKX = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})
_CNL = _SKX | {"avx512ifma", "avx512vbmi"}
_ICL = _CNL | {"avx512_vnni", "avx512_vbmi2", "avx512_bitalg", "avx512_vpopcntdq"}
_NUMPY: Final[Mapping[str, Flags]] = {
    "AVX": frozenset({"avx"}),
    "F16C": frozenset({"avx", "f16c"}),
    "FMA3": frozenset({"avx", "f16c", "fma"}),
    "AVX2": frozenset({"avx", "f16c", "avx2"}),
    "X86_V3": _V3,
    "AVX512F": frozenset({"avx512f"}),
    "AVX512CD": frozenset({"avx512f", "avx512cd"}),
    "AVX512_SKX": _SKX,
    "X86_V4": _V4,
    "AVX512_CLX": _SKX | {"avx512_vnni"},
    "AVX512_CNL": _CNL,
    "AVX512_ICL": _ICL | {"gfni", "vaes", "vpclmulqdq"},
    "AVX512_SPR": _ICL | {"gfni", "vaes", "vpclmulqdq", "avx512_fp16", "avx512_bf16"},
}
_NUMPY_ARM: Final[Mapping[str, str]] = {
    "ASIMDHP": "asimdhp", "ASIMDDP": "asimddp", "ASIMDFHM": "asimdfhm", "SVE": "sve",
}  # fmt: skip

# ── linear algebra, neural networks, columns ─────────────────────────────────────────────────────────────────


def _openblas(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """`driver/others/dynamic.c`; only cores that every build with DYNAMIC_ARCH has, as it takes its own choice for
    one it lacks. SkylakeX is the widest: what lies above it asks for more than AVX-512's first five parts."""
    core = {1: "Prescott", 2: "Nehalem", 3: "Haswell", 4: "SkylakeX"}[_level(allowed)]
    return {"OPENBLAS_CORETYPE": "Sandybridge" if core == "Nehalem" and "avx" in allowed else core}


def _openblas_arm(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    return {"OPENBLAS_CORETYPE": "ARMV8"}


def _intel(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """oneMKL, "Instruction Set Specific Dispatching", which it does on Intel's CPUs only; oneDNN, "CPU Dispatcher
    Control"."""
    mkl, dnn = {
        4: ("AVX512", "AVX512_CORE"),
        3: ("AVX2", "AVX2"),
    }.get(_level(allowed), ("SSE4_2", "AVX" if "avx" in allowed else "SSE41"))
    return {"MKL_ENABLE_INSTRUCTIONS": mkl, "ONEDNN_MAX_CPU_ISA": dnn, "DNNL_MAX_CPU_ISA": dnn}


def _torch(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """`aten/src/ATen/native/DispatchStub.cpp`."""
    return {"ATEN_CPU_CAPABILITY": {4: "avx512", 3: "avx2"}.get(_level(allowed), "default")}


def _arrow(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """Arrow C++, "Environment Variables"."""
    return {"ARROW_USER_SIMD_LEVEL": {1: "NONE", 2: "SSE4_2", 3: "AVX2", 4: "AVX512"}[_level(allowed)]}


def _numba(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """Numba, "Environment variables": its compiler builds for the CPU named, and no features beside that CPU's."""
    level = _level(allowed)
    return {"NUMBA_CPU_NAME": f"x86-64-v{level}" if level > 1 else "x86-64", "NUMBA_CPU_FEATURES": ""}


# ── OpenSSL, which signs each message of a kernel ────────────────────────────────────────────────────────────


def _openssl(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """OPENSSL_ia32cap(3): bits of CPUID leaf 1 (edx, ecx), leaf 7 (ebx, ecx), and since 3.4 leaf 7 (edx) with leaf 7.1
    (eax); `~` takes them away."""
    words = [sum(1 << bit for flag, bit in vector.items() if flag not in allowed) for vector in _OPENSSL]
    return {"OPENSSL_ia32cap": ":".join(f"~{word:#x}" for word in words)}


def _openssl_arm(allowed: Flags, environment: Mapping[str, str]) -> dict[str, str]:
    """`crypto/arm_arch.h`: here the variable holds all that there is."""
    return {"OPENSSL_armcap": f"{sum(1 << bit for flag, bit in _OPENSSL_ARM.items() if flag in allowed):#x}"}


_OPENSSL: Final = (
    {"pclmulqdq": 33, "ssse3": 41, "xop": 43, "fma": 44, "sse4_1": 51, "sse4_2": 52, "movbe": 54, "popcnt": 55,
     "aes": 57, "avx": 60, "f16c": 61, "rdrand": 62},
    {"bmi1": 3, "avx2": 5, "bmi2": 8, "avx512f": 16, "avx512dq": 17, "rdseed": 18, "adx": 19, "avx512ifma": 21,
     "avx512cd": 28, "sha_ni": 29, "avx512bw": 30, "avx512vl": 31, "avx512vbmi": 33, "avx512_vbmi2": 38, "gfni": 40,
     "vaes": 41, "vpclmulqdq": 42, "avx512_vnni": 43, "avx512_bitalg": 44, "avx512_vpopcntdq": 46},
    {"sha512": 32, "sm3": 33, "sm4": 34, "avx_ifma": 55},
)  # fmt: skip
_OPENSSL_ARM: Final = {"asimd": 0, "aes": 2, "sha1": 3, "sha2": 4, "pmull": 5, "sha512": 6, "sha3": 11}

_HOLDS: Final[Mapping[str, tuple[Hold, ...]]] = {
    "x86_64": (_glibc, _numpy, _openblas, _intel, _torch, _arrow, _numba, _openssl),
    "aarch64": (_glibc_arm, _numpy_arm, _openblas_arm, _openssl_arm),
}
