"""The form of a rule of the conformance checker, and the list of all of them.

A rule is one small function: it looks at a graph and yields a `Fault` for every place that breaks
it. Its number, level, source and remedy are attached by the decorator `rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from edgevit.targets.tensorrt.conformance.view import GraphView
from edgevit.targets.tensorrt.profiles import DeviceProfile, version_key


class Level(str, Enum):
    """Severity of a finding."""

    ERROR = "E"
    """TensorRT refuses the file, or computes something else than what was meant."""
    WARNING = "W"
    """It builds, but a fusion, accuracy or robustness is at stake."""
    ADVICE = "P"
    """It could be faster or clearer."""


@dataclass(frozen=True, kw_only=True)
class GraphParity:
    """Distance of the graph in ONNX Runtime (CPU, optimisations off) from the simulation.

    Args:
        num_images: How many images were compared.
        agreement_percent: Images whose top-1 class is the same, in percent; None of a model that
            does not classify.
        cosine: Smallest cosine between the outputs of one image.
        max_error: Largest absolute difference of an element.
    """

    num_images: int
    agreement_percent: float | None
    cosine: float
    max_error: float


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """Facts of a model beyond its graph; whoever exports it can tell more than a file.

    Args:
        asked: Precision the engine is meant to have ("fp16", "int8", "fp8"); "" if not said.
        largest: Tensor of the graph -> largest absolute value seen in calibration.
        clipped: Tensor of the graph -> share of its values (0-1) its grid cut off in calibration.
        parity: Comparison with the simulation; None if there is nothing to compare with.
        no_parity: Why there is none.
    """

    asked: str = ""
    largest: Mapping[str, float] = field(default_factory=dict)
    clipped: Mapping[str, float] = field(default_factory=dict)
    parity: GraphParity | None = None
    no_parity: str = "only a bundle says what its logits should be"


@dataclass(frozen=True, kw_only=True)
class CheckedGraph:
    """The graph and the facts that a rule looks at.

    Args:
        view: The graph.
        profile: The device.
        tensorrt: Oldest and newest TensorRT the file has to serve, "major.minor".
        facts: What is known beyond the graph.
        load_error: What ONNX's own checker says of the file; "" if it is content.
    """

    view: GraphView
    profile: DeviceProfile
    tensorrt: tuple[str, str]
    facts: BuildFacts = field(default_factory=BuildFacts)
    load_error: str = ""

    def serves_older_than(self, version: str) -> bool:
        """Return whether the file has to serve a TensorRT older than `version`."""
        return version_key(self.tensorrt[0]) < version_key(version)

    def serves(self, version: str) -> bool:
        """Return whether the file has to serve TensorRT `version` or newer."""
        return version_key(self.tensorrt[1]) >= version_key(version)


@dataclass(frozen=True)
class Fault:
    """One place that breaks a rule.

    Args:
        node: Name of the node, tensor or graph concerned.
        message: What is wrong there.
        level: Another level than the rule's own.
    """

    node: str
    message: str
    level: Level | None = None


class NotRun(Exception):
    """A rule needs something that is not known of this model."""


Check = Callable[[CheckedGraph], Iterator[Fault]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Args:
        number: Stable number.
        level: Level of its faults, where they don't say otherwise.
        title: What a conforming graph does.
        source: Where the rule is from.
        remedy: What to do about a fault.
        check: Yields the faults of a subject.
    """

    number: int
    level: Level
    title: str
    source: str
    remedy: str
    check: Check


RULES: dict[int, Rule] = {}


def rule(
    number: int, level: Level, title: str, *, source: str, remedy: str
) -> Callable[[Check], Check]:
    """Enter a function into the list of rules under its number."""

    def enter(check: Check) -> Check:
        if number in RULES:
            raise ValueError(f"there are two rules {number}")
        RULES[number] = Rule(
            number=number, level=level, title=title, source=source, remedy=remedy, check=check
        )
        return check

    return enter
