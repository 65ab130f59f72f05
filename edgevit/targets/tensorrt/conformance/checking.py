"""Runs all rules on a graph and puts together what they found."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgevit.targets.tensorrt.conformance.rule import (
    RULES,
    BuildFacts,
    CheckedGraph,
    Fault,
    Level,
    NotRun,
    Rule,
)
from edgevit.targets.tensorrt.conformance.view import GraphView
from edgevit.targets.tensorrt.profiles import DeviceProfile

SCHEMA_VERSION = 1
FILE_RULE = 31
"""Says what is wrong with a file as such."""


@dataclass(frozen=True, kw_only=True)
class RuleFinding:
    """One place that breaks one rule.

    Args:
        rule: Number of the rule.
        level: "E", "W" or "P".
        node: Name of the node, tensor or graph concerned.
        message: What is wrong there.
        remedy: What to do about it.
    """

    rule: int
    level: Level
    node: str
    message: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """The findings of the rules.

    Args:
        target: Name of the device profile.
        tensorrt: Oldest and newest TensorRT the file has to serve.
        findings: By rule number.
        not_run: Number of a rule that could not be looked at -> why.
    """

    target: str
    tensorrt: tuple[str, str]
    findings: tuple[RuleFinding, ...]
    not_run: dict[int, str]

    @property
    def errors(self) -> tuple[RuleFinding, ...]:
        """Findings of level E."""
        return self.of_level(Level.ERROR)

    @property
    def conforms(self) -> bool:
        """Return whether there are no errors."""
        return not self.errors

    def of_level(self, level: Level) -> tuple[RuleFinding, ...]:
        """Return the findings of one level."""
        return tuple(found for found in self.findings if found.level is level)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able report."""
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "tensorrt": list(self.tensorrt),
            "conforms": self.conforms,
            "counts": {level.value: len(self.of_level(level)) for level in Level},
            "findings": [_dict_from_finding(found) for found in self.findings],
            "rules": [self._row(RULES[number]) for number in sorted(RULES)],
        }

    def _row(self, rule: Rule) -> dict[str, Any]:
        count = sum(found.rule == rule.number for found in self.findings)
        state = "broken" if count else "not run" if rule.number in self.not_run else "kept"
        return {
            "rule": rule.number,
            "level": rule.level.value,
            "title": rule.title,
            "source": rule.source,
            "state": state,
            "count": count,
            "reason": self.not_run.get(rule.number, ""),
        }


def check_onnx(
    model: onnx.ModelProto | bytes | str | os.PathLike[str],
    profile: DeviceProfile,
    *,
    tensorrt: tuple[str, str] | None = None,
    facts: BuildFacts | None = None,
    rules: Collection[int] | None = None,
) -> Conformance:
    """Look at a model with all rules, or with some.

    Args:
        model: A model, a serialized one, or a file (its external data beside it).
        profile: The device it is for.
        tensorrt: Oldest and newest TensorRT it has to serve; the profile's own if left out.
        facts: What is known beyond the graph.
        rules: Numbers of the rules to look with; all if left out.
    """
    proto, base_dir = _load(model)
    subject = CheckedGraph(
        view=GraphView(proto, base_dir),
        profile=profile,
        tensorrt=tensorrt or profile.tensorrt,
        facts=facts or BuildFacts(),
        load_error=_checker_error(model),
    )
    findings: list[RuleFinding] = []
    not_run: dict[int, str] = {}
    for number in sorted(RULES if rules is None else rules):
        try:
            findings += _findings(RULES[number], subject)
        except NotRun as reason:
            not_run[number] = str(reason)
    return Conformance(
        target=profile.name,
        tensorrt=subject.tensorrt,
        findings=tuple(findings),
        not_run=not_run,
    )


def _load(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the model, its external data left where it is, and the folder of that data."""
    if isinstance(model, onnx.ModelProto):
        return model, ""
    if isinstance(model, bytes):
        return onnx.ModelProto.FromString(model), ""
    path = Path(model)
    # Named, as otherwise a file called .json or .txt would be read as another form of ONNX.
    return onnx.load(path, "protobuf", load_external_data=False), str(path.parent)


def _checker_error(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> str:
    """Return what ONNX's own checker says against the model, "" if nothing.

    Its full check would infer shapes as well; the view does that, also with external data.
    """
    subject = model if isinstance(model, (onnx.ModelProto, bytes)) else os.fspath(model)
    try:
        onnx.checker.check_model(subject)
    except Exception as error:  # the bindings raise several unrelated classes
        return str(error).strip() or type(error).__name__
    return ""


def _findings(rule: Rule, subject: CheckedGraph) -> list[RuleFinding]:
    """Return what one rule finds; in a damaged file it may have to give up."""
    if subject.view.disorder and rule.number != FILE_RULE:
        raise NotRun(f"the graph is damaged: {subject.view.disorder}")
    try:
        return [_finding(rule, fault) for fault in rule.check(subject)]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        if not subject.load_error:
            raise
        raise NotRun(f"the file is not sound (rule {FILE_RULE})") from error


def _finding(rule: Rule, fault: Fault) -> RuleFinding:
    return RuleFinding(
        rule=rule.number,
        level=fault.level or rule.level,
        node=fault.node,
        message=fault.message,
        remedy=fault.remedy or rule.remedy,
    )


def _dict_from_finding(found: RuleFinding) -> dict[str, Any]:
    return {
        "rule": found.rule,
        "level": found.level.value,
        "node": found.node,
        "message": found.message,
        "remedy": found.remedy,
    }
