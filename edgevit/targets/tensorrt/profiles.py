"""The TensorRT devices as data: compute capability, TensorRT range, precisions.

Everything that decides on a precision reads this table: the targets before calibration, the
conformance checker, the build policy and the board itself, so it needs nothing but Python 3.8.
Sources: NVIDIA's TensorRT support matrix and migration guides (10.3 to 11.4.1), JetPack's release
notes, and the limits of fused attention quoted by NVIDIA in NVIDIA/TensorRT issues 2981 and 4167;
the shortest sequence in FP8 is what TensorRT for RTX 1.7.1 fuses, which agrees on INT8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from edgevit.errors import UsageError

OLDEST_TENSORRT, NEWEST_TENSORRT = "10.3", "11.4"
"""What one exported file has to serve."""
RELEASES = (("8.6", "8.6"), ("10.0", "10.16"), ("11.0", "11.4"))
"""TensorRT releases ("major.minor") the rules have been looked up for, as ranges."""


@dataclass(frozen=True)
class AttentionLimits:
    """Sizes within which TensorRT fuses an attention of one precision into one kernel.

    Args:
        head_sizes: Channels a head may have.
        max_sequence: Largest number of queries and of keys; None where there is no limit.
        min_sequence: Smallest that the larger of both numbers may be.
        min_heads: Smallest number of heads.
    """

    head_sizes: tuple[int, ...]
    max_sequence: int | None = None
    min_sequence: int = 1
    min_heads: int = 1

    def allows(self, *, heads: int, head_size: int, sequence: int) -> bool:
        """Return whether an attention of this size can be fused."""
        short_enough = self.max_sequence is None or sequence <= self.max_sequence
        long_enough = sequence >= self.min_sequence
        fits = head_size in self.head_sizes and heads >= self.min_heads
        return fits and short_enough and long_enough


FP16_ATTENTION = AttentionLimits(head_sizes=tuple(range(16, 257, 8)))
INT8_ATTENTION = AttentionLimits(head_sizes=(16, 32, 64), max_sequence=512)
INT8_BEFORE_ADA = replace(INT8_ATTENTION, min_heads=2)
FP8_ATTENTION = AttentionLimits(head_sizes=tuple(range(9, 257)), min_sequence=32)


@dataclass(frozen=True)
class DeviceProfile:
    """The capability table of one device or generation of devices.

    Args:
        name: Its name as a target.
        description: One line for people.
        compute_capability: Major and minor, such as "8.7".
        tensorrt: Oldest and newest TensorRT ("major.minor") a file for it has to serve.
        precisions: What its GPU computes in: "fp32", "fp16", "bf16", "int8", "fp8", "fp4".
        fp16_attention: Sizes of attention that are fused in FP16.
        int8_attention: Sizes of attention that are fused in INT8.
        fp8_attention: Sizes of attention that are fused in FP8; None where there is no FP8.
        memory_gb: Sizes it is sold with, shared with the processor on a Jetson; empty if open.
        jetpack: JetPack releases that serve it; empty on anything but a Jetson.
        soc: Name of a Jetson's chip, as in /proc/device-tree/compatible.
        engine: Name of the engine that runs its bundles.
        compiles_as: What TensorRT for RTX can compile for without the device that is nearest to
            it, such as "SM86" for an Orin's 8.7; empty where it has nothing of that generation.
    """

    name: str
    description: str
    compute_capability: str
    precisions: tuple[str, ...]
    tensorrt: tuple[str, str] = (OLDEST_TENSORRT, NEWEST_TENSORRT)
    fp16_attention: AttentionLimits = FP16_ATTENTION
    int8_attention: AttentionLimits = INT8_BEFORE_ADA
    fp8_attention: AttentionLimits | None = None
    memory_gb: tuple[int, ...] = ()
    jetpack: tuple[str, ...] = ()
    soc: str = ""
    engine: str = "tensorrt"
    compiles_as: str = ""

    @property
    def sm(self) -> int:
        """Compute capability as one number: 87 for "8.7"."""
        major, minor = self.compute_capability.split(".")
        return 10 * int(major) + int(minor)

    @property
    def is_jetson(self) -> bool:
        """True for a Jetson board."""
        return bool(self.soc)

    def runs(self, precision: str) -> bool:
        """Return whether its GPU computes in a precision, such as "fp8"."""
        return precision in self.precisions


def version_key(version: str) -> tuple[int, ...]:
    """Return a version as comparable numbers: (10, 3) for "10.3"; "10.13" is newer than that."""
    return tuple(int(part) for part in version.split("."))


def is_version(text: str) -> bool:
    """Return whether a text is a "major.minor"."""
    return re.match(r"[0-9]{1,3}\.[0-9]{1,3}\Z", text) is not None


def is_release(version: str) -> bool:
    """Return whether the rules know a TensorRT release: True for "10.3", False for "99.9"."""
    if not is_version(version):
        return False
    key = version_key(version)
    return any(version_key(old) <= key <= version_key(new) for old, new in RELEASES)


def releases_text() -> str:
    """Return the releases the rules know, for people."""
    return ", ".join(old if old == new else f"{old} to {new}" for old, new in RELEASES)


_AMPERE = ("fp32", "fp16", "bf16", "int8")
_ADA = (*_AMPERE, "fp8")
_BLACKWELL = (*_ADA, "fp4")
_GENERATIONS = (
    DeviceProfile(
        name="tensorrt-ampere",
        description="TensorRT on A100, A10, RTX 30 and later: INT8 and FP16",
        compute_capability="8.0",
        compiles_as="SM80",
        precisions=_AMPERE,
    ),
    DeviceProfile(
        name="tensorrt-ada",
        description="TensorRT on L4, L40, RTX 40: INT8, FP8 and FP16",
        compute_capability="8.9",
        compiles_as="SM89",
        precisions=_ADA,
        int8_attention=INT8_ATTENTION,
        fp8_attention=FP8_ATTENTION,
    ),
    DeviceProfile(
        name="tensorrt-hopper",
        description="TensorRT on H100, H200: INT8, FP8 and FP16",
        compute_capability="9.0",
        precisions=_ADA,
        int8_attention=INT8_ATTENTION,
        fp8_attention=FP8_ATTENTION,
    ),
    DeviceProfile(
        name="tensorrt-blackwell",
        description="TensorRT on B200, RTX 50: INT8, FP8 and FP16",
        compute_capability="10.0",
        precisions=_BLACKWELL,
        tensorrt=("10.8", NEWEST_TENSORRT),
        int8_attention=INT8_ATTENTION,
        fp8_attention=FP8_ATTENTION,
    ),
)
_RTX = (
    DeviceProfile(
        name="rtx-turing",
        description="TensorRT for RTX on RTX 20: INT8 and FP16",
        compute_capability="7.5",
        compiles_as="SM75",
        precisions=("fp32", "fp16", "int8"),
        engine="tensorrt_rtx",
    ),
    DeviceProfile(
        name="rtx-ampere",
        description="TensorRT for RTX on RTX 30: INT8 and FP16",
        compute_capability="8.6",
        compiles_as="SM86",
        precisions=_AMPERE,
        engine="tensorrt_rtx",
    ),
    DeviceProfile(
        name="rtx-ada",
        description="TensorRT for RTX on RTX 40: INT8, FP8 and FP16",
        compute_capability="8.9",
        compiles_as="SM89",
        precisions=_ADA,
        int8_attention=INT8_ATTENTION,
        fp8_attention=FP8_ATTENTION,
        engine="tensorrt_rtx",
    ),
    DeviceProfile(
        name="rtx-blackwell",
        description="TensorRT for RTX on RTX 50: INT8, FP8 and FP16",
        compute_capability="12.0",
        compiles_as="SM120",
        precisions=_BLACKWELL,
        int8_attention=INT8_ATTENTION,
        fp8_attention=FP8_ATTENTION,
        engine="tensorrt_rtx",
    ),
)
_JETSONS = (
    DeviceProfile(
        name="jetson-orin-nano",
        description="Jetson Orin Nano: INT8 and FP16",
        compute_capability="8.7",
        compiles_as="SM86",
        precisions=_AMPERE,
        memory_gb=(4, 8),
        jetpack=("6.1", "6.2", "7.2"),
        soc="tegra234",
    ),
    DeviceProfile(
        name="jetson-orin-nx",
        description="Jetson Orin NX: INT8 and FP16",
        compute_capability="8.7",
        compiles_as="SM86",
        precisions=_AMPERE,
        memory_gb=(8, 16),
        jetpack=("6.1", "6.2", "7.2"),
        soc="tegra234",
    ),
    DeviceProfile(
        name="jetson-agx-orin",
        description="Jetson AGX Orin: INT8 and FP16",
        compute_capability="8.7",
        compiles_as="SM86",
        precisions=_AMPERE,
        memory_gb=(32, 64),
        jetpack=("6.1", "6.2", "7.2"),
        soc="tegra234",
    ),
    DeviceProfile(
        name="jetson-thor",
        description="Jetson AGX Thor: INT8, FP8 and FP16",
        compute_capability="11.0",
        precisions=_BLACKWELL,
        tensorrt=("10.13", NEWEST_TENSORRT),
        int8_attention=INT8_ATTENTION,
        fp8_attention=FP8_ATTENTION,
        memory_gb=(128,),
        jetpack=("7.0", "7.1", "7.2"),
        soc="tegra264",
    ),
)
_ANY = replace(
    _GENERATIONS[0],
    name="tensorrt",
    description="TensorRT 10.3 to 11.4 on any GPU since Ampere: INT8 and FP16",
)
PROFILES: dict[str, DeviceProfile] = {
    profile.name: profile for profile in (_ANY, *_GENERATIONS, *_JETSONS, *_RTX)
}


def profile_named(name: str) -> DeviceProfile:
    """Return the profile of this name, in small or capital letters.

    Raises:
        UsageError: There is none (EV340).
    """
    known = name.lower()
    if known in PROFILES:
        return PROFILES[known]
    near = get_close_matches(known, PROFILES, n=1)
    raise UsageError(
        "EV340",
        f"{name!r} is no TensorRT device.",
        where="--target",
        why="Known are " + ", ".join(PROFILES) + ".",
        try_next=f"--target {near[0] if near else 'tensorrt'}",
    )
