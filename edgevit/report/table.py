"""Tables for a terminal: the validation report, a bundle's layers, the known models.

Everything fits 80 columns and is plain text when piped; names that come from outside are never
read as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgevit.bundle.manifest import EXACT_VARIANT, MAIN_VARIANT
from edgevit.bundle.outputs import is_classifier, outputs_of, task_of
from edgevit.bundle.shares import multiply_add_shares
from edgevit.data.tasks import CLASSIFY
from edgevit.report.build import build_table
from edgevit.report.cells import new_table, plain_text
from edgevit.report.kernels import LIBRARY, kernel_of, kernels_report
from edgevit.report.shares import shares_lines
from edgevit.report.task import checked_lines, task_name, task_rows
from edgevit.report.telemetry import telemetry_notes
from edgevit.runner.measure.eer import DEFAULT_METRICS

if TYPE_CHECKING:
    from rich.console import RenderableType

_VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "UNDECIDED": "bold yellow"}
_NOTHING = "-"
_NAMED_SKIPS = 3
_SHOWN_LABELS = 4
_NAME_WIDTH = 12  # of names that are not broken on a narrow terminal
_MODEL_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "name": ("model", str),
    "parameters": ("parameters", lambda count: f"{count / 1e6:.1f} M"),
    "flops": ("GFLOPs", lambda flops: _giga(flops)),
    "input_size": ("input", lambda size: "x".join(map(str, size))),
    "source": ("source", str),
    "note": ("note", str),
    "proven": ("works on", str),
}


def validation_table(report: Mapping[str, Any]) -> RenderableType:
    """Return a table of a report made by `edgevit.runner.measure.validation.validation_report`."""
    from rich.console import Group

    bits = report["bits"]
    title = f"{report['model']}  {_widths(bits)}  {report['num_images']} images"
    table = new_table(title, "", "fp32", "engine", "change", numbers=("fp32", "engine"))
    accuracies = _accuracy_rows(report) if task_name(report) == CLASSIFY else []
    rows = [*accuracies, *task_rows(report), *_latency_rows(report), *_cost_rows(report)]
    for row in rows:
        table.add_row(*(plain_text(cell) for cell in row))
    lines: list[RenderableType] = [plain_text(line) for line in _notes(report)]
    if report["build"] is not None:
        lines.append(build_table(report["build"]))
    if report["verdict"]:
        verdict = plain_text(report["verdict"], _VERDICT_STYLES[report["verdict"]])
        lines.append(
            verdict.append_text(plain_text(f"  {report['verdict_reason']}", "not bold default"))
        )
    return Group(table, *lines)


def device_lines(device: Mapping[str, Any]) -> RenderableType:
    """Return what a report of `edgevit deploy` says about the board: its key ``device``."""
    from rich.console import Group

    facts = device["facts"]
    jetpack, mode = facts.get("jetpack"), (facts.get("power_mode") or {}).get("name")
    parts = [
        facts.get("model"),
        jetpack and f"JetPack {jetpack}",
        mode and f"power mode {mode}",
        f"Python {device['python']}",
    ]
    lines = [f"on {device['address']}: " + ", ".join(part for part in parts if part)]
    if device["run_again"]:
        lines.append(f"kept there; to measure again: {device['run_again']}")
    return Group(*(plain_text(line) for line in lines))


def inspect_table(manifest: Mapping[str, Any]) -> RenderableType:
    """Return a bundle's manifest at a glance: where it comes from, its sizes, its layers.

    Args:
        manifest: `Bundle.manifest`; with a key size_bytes {bundle, engine, ...} it shows sizes,
            with a key kernels what was compiled of it.
    """
    from rich.console import Group

    model, calibration = manifest["model"], manifest["calibration"]
    lines = [
        f"{model['name']}  {_widths(manifest['bits'])}  for {_target(manifest['target'])}",
        *counts_lines(model),
        *shares_lines(multiply_add_shares(manifest["layers"])),
        f"{_gives(model)}, input {'x'.join(map(str, model['input_size']))}, "
        f"calibrated on {_show_text(calibration.get('num_images'))} images "
        f"with {_show_text(calibration.get('method'))}",
        f"written by EdgeViT {manifest['edgevit_version']} on {manifest['created']}",
    ]
    lines += _class_lines(model)
    shift = calibration.get("scale_shift_percent")
    if isinstance(shift, float):
        lines.append(
            f"scales moved by {shift:.3f} % at most, to where codes don't depend on engines"
        )
    if isinstance(model.get("preprocessing_source"), str):  # older bundles have none
        lines.append(f"preprocessing: {model['preprocessing_source']}")
    if "size_bytes" in manifest:
        sizes = manifest["size_bytes"].items()
        shown = [f"{kind} {_megabytes(size)}" for kind, size in sizes if size or kind != "compiled"]
        lines.append("size: " + ", ".join(shown))
    lines += _means(manifest["bits"])
    if manifest.get("variants"):
        lines.append(_forms(list(manifest["variants"])))
    lines += [_engine_line(row) for row in manifest.get("engines", [])]
    lines += [f"warning: {warning}" for warning in manifest["warnings"]]
    engine, tables = manifest.get("engine", {}).get("name", ""), manifest.get("kernels", [])
    main = next((one for one in tables if one["variant"] == MAIN_VARIANT), None)
    texts = (plain_text(line) for line in lines)
    return Group(*texts, layers_table(manifest["layers"], main), *kernels_report(tables, engine))


def _gives(model: Mapping[str, Any]) -> str:
    """Return what comes out: classes, or the outputs with their dimensions and the task."""
    if is_classifier(model):
        return f"{model['num_classes']} classes"
    shown = [
        f"{one.name} {'x'.join(map(str, one.shape)) or '1'}"
        for one in outputs_of(model)[:_SHOWN_LABELS]
    ]
    more = ", ..." if len(outputs_of(model)) > _SHOWN_LABELS else ""
    return f"{task_of(model)}: {', '.join(shown)}{more}"


def _class_lines(model: Mapping[str, Any]) -> list[str]:
    """Return a line on the names of the classes, or on the order of their folders."""
    if model.get("classes"):
        names = ", ".join(model["classes"][:_SHOWN_LABELS])
        return [f"classes by {model.get('classes_from', 'the model')}: {names}, ..."]
    if model.get("class_order"):
        return [f"classes in the order of their folders as in {model['class_order']}"]
    return []


def _engine_line(row: Mapping[str, Any]) -> str:
    """Return a line on a compiled engine."""
    smallest, _, largest = row["batches"]
    return (
        f"{row['file']}: {row['variant']} for {', '.join(row['capabilities'])}, "
        f"batch {smallest} to {largest}, by {row['engine']} {row['version']}"
    )


def _forms(variants: list[str]) -> str:
    """Return a line on the forms of the model besides the main one."""
    line = "also as " + ", ".join(variants) + "; layers are those of int8"
    if EXACT_VARIANT in variants:
        line += f"; {EXACT_VARIANT} has the same integers for processors on which int8 saturates"
    return line


def layers_table(
    layers: Iterable[Mapping[str, Any]], compiled: Mapping[str, Any] | None = None
) -> RenderableType:
    """Return the ``layers`` of a bundle's manifest, one row per matrix product.

    Bits are those of the left and the right operand (activation x weight for a linear layer). A
    layer left in float shows the number of its reason in place of its grid, and so does one that
    was not compiled as asked; the reasons stand below, each once.

    Args:
        layers: Rows of the main form.
        compiled: Its kernels, as `edgevit.runner.engines.tensorrt.table_summary` gives them.
    """
    from rich.console import Group

    rows = list(layers)
    products = compiled["products"] if compiled else [None] * len(rows)
    title = f"Layers, compiled for {', '.join(compiled['capabilities'])}" if compiled else "Layers"
    notes: dict[str, int] = {}
    headings = ("module", "kind", "bits", "grid", "carrier", *(["compiled"] if compiled else []))
    table = new_table(title, *headings, "kernel")
    for layer, product in zip(rows, products, strict=True):
        cells = [*_layer_cells(layer, notes), *_kernel_cells(layer, product, notes)]
        table.add_row(*(plain_text(_show_text(cell)) for cell in cells))
    lines = [f"note {n}: {reason}" for reason, n in notes.items()]
    if any(product and kernel_of(product) == LIBRARY for product in products):
        lines.append(f"{LIBRARY}: a product by itself, whose kernel is chosen on the card")
    return Group(table, *map(plain_text, lines))


def _layer_cells(layer: Mapping[str, Any], notes: dict[str, int]) -> tuple[Any, ...]:
    left = layer.get("left_bits", layer.get("act_bits"))
    right = layer.get("right_bits", layer.get("weight_bits"))
    bits = f"{left} x {right}" if left is not None or right is not None else None
    grid = layer.get("grid")
    if grid is None and layer.get("reason"):
        grid = f"note {notes.setdefault(layer['reason'], len(notes) + 1)}"
    name = layer.get("module", layer.get("name"))
    return name, layer.get("kind"), bits, grid, layer.get("carrier")


def _kernel_cells(
    layer: Mapping[str, Any], product: Mapping[str, Any] | None, notes: dict[str, int]
) -> tuple[Any, ...]:
    """Return the kernel of a layer; before it, where it is known, in which precision it runs."""
    if product is None:
        return (layer.get("kernel"),)
    precision = product["chosen"] or _NOTHING
    if product["reason"]:
        precision += f", note {notes.setdefault(product['reason'], len(notes) + 1)}"
    return precision, kernel_of(product)


def models_table(models: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Return models with their parameters, flops, input_size, source, note where known."""
    rows = list(models)
    used = [key for key in _MODEL_COLUMNS if any(row.get(key) is not None for row in rows)]
    headings = [_MODEL_COLUMNS[key][0] for key in used]
    table = new_table("Models", *headings, numbers=("parameters", "GFLOPs"))
    if rows:
        table.columns[0].min_width = min(_NAME_WIDTH, max(len(row["name"]) for row in rows))
    for row in rows:
        known = {key: row[key] for key in used if row.get(key) is not None}
        cells = {key: _MODEL_COLUMNS[key][1](value) for key, value in known.items()}
        table.add_row(*(plain_text(cells.get(key, _NOTHING)) for key in used))
    return table


def methods_table(methods: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Return calibration methods: name, summary, source, num_images, cost and needs of each."""
    table = new_table(
        "Methods", "method", "what, paper", "images", "cost, needs", numbers=("images",)
    )
    for row in methods:
        needs = f"\nneeds {row['needs']}" if row["needs"] else ""
        what, cost = f"{row['summary']}\n{row['source']}", f"{row['cost']}{needs}"
        cells = (row["name"], what, str(row["num_images"]), cost)
        table.add_row(*(plain_text(cell, keep="\n") for cell in cells))
    return table


def targets_table(targets: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Return targets: rows of `edgevit.targets.listing.list_targets`."""
    table = new_table("Targets", "target", "what it is, what has run", "bits", "grids")
    for row in targets:
        widths, grids = f"{min(row['widths'])}-{max(row['widths'])}", ", ".join(row["grids"])
        what = f"{row['description']}\n{row['seen_to_run']}"
        table.add_row(*(plain_text(cell, keep="\n") for cell in (row["name"], what, widths, grids)))
    return table


def _accuracy_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    top1, top5, drop = report["top1"], report["top5"], report["drop_points"]
    change = ""
    if drop is not None:
        value, low, high = (0.0 - drop[key] for key in ("value", "high", "low"))
        change = f"{value:+.2f} points [{low:+.2f}, {high:+.2f}]"
    return [
        ("top-1 accuracy", _percent(top1["fp32"]), _percent(top1["engine"]), change),
        ("top-5 accuracy", _percent(top5["fp32"]), _percent(top5["engine"]), ""),
    ]


def _latency_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    latency, speedup = report["latency_ms"], report["speedup_interval"]
    if not latency["engine"]:
        return []
    change = ""
    if speedup is not None:
        change = f"{speedup['value']:.2f}x as fast [{speedup['low']:.2f}, {speedup['high']:.2f}]"
    rows: list[tuple[str, ...]] = []
    for key in ("p50", "p90", "p99"):
        cells = [f"{one[key]:.2f} ms" if one else _NOTHING for one in _pair(latency)]
        rows.append((f"latency {key}", *cells, change if key == "p50" else ""))
    speeds = [
        _NOTHING if one is None else f"{one:.1f}" for one in _pair(report["images_per_second"])
    ]
    return [*rows, ("images per second", *speeds, "")]


def _cost_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for label, key in (("size of the model", "size_bytes"), ("peak memory", "peak_memory_bytes")):
        fp32, engine = _pair(report[key])
        rows.append((label, _megabytes(fp32), _megabytes(engine), _times(fp32, engine)))
    energy = _pair(report["energy_mj"])
    if any(energy):
        cells = [_NOTHING if one is None else f"{one:.1f} mJ" for one in energy]
        rows.append(("energy per image", *cells, "above idle"))
    return rows + _eer_rows(report)


def _eer_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    terms = report["eer_terms"]
    note = f"of {terms['reference']}"
    if terms["missing"]:
        note += f": no {', no '.join(terms['missing'])}"
    elif tuple(terms["metrics"]) != DEFAULT_METRICS:
        note += f": {', '.join(terms['metrics'])}"
    rows: list[tuple[str, ...]] = [("EER", "", _percent(report["eer"], digits=1), note)]
    if report["eer_weighted"] is not None:
        weights = [f"{name} {term['weight']:g}" for name, term in terms["metrics"].items()]
        weighted = _percent(report["eer_weighted"], digits=1)
        rows.append(("EER, weighted", "", weighted, ", ".join(weights)))
    return rows


def _run_by(engine: Mapping[str, Any]) -> str:
    line = f"run by {engine['name']}, {engine['provider']}"
    if engine.get("variant") == EXACT_VARIANT:
        line += f", as {EXACT_VARIANT}: sums of the usual form saturate on this processor"
    return line


def _label_lines(labels: Mapping[str, Any] | None) -> list[str]:
    """Return a line that says which folder is which class, the first few of them."""
    if labels is None:
        return []
    pairs = list(labels["mapping"].items())[:_SHOWN_LABELS]
    shown = ", ".join(f"{folder} -> {index}" for folder, index in pairs)
    more = f", ... ({labels['num_folders']} folders)" if labels["num_folders"] > len(pairs) else ""
    return [f"labels by {labels['source']}: {shown}{more}"]


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Return the lines below the table."""
    agreement, skipped = report["agreement"], report["skipped_images"]
    lines = [*counts_lines(report), *shares_lines(report["multiply_adds"])]
    lines += _label_lines(report["labels"])
    if agreement["engine_vs_simulated"] is not None:
        lines.append(f"engine and simulation agree on {_percent(agreement['engine_vs_simulated'])}")
    lines += checked_lines(report)
    if agreement["engine_vs_fp32"] is not None:
        lines.append(f"engine and fp32 agree on {_percent(agreement['engine_vs_fp32'])}")
    if report["mcnemar_p"] is not None:
        lines.append(f"McNemar's exact p = {report['mcnemar_p']:.3g}")
    if report["engine"]:
        lines.append(_run_by(report["engine"]))
    if report["latency_ms"]["engine"]:
        conditions = report["latency_conditions"].items()
        known = [f"{key} {value}" for key, value in conditions if value is not None]
        lines.append("latency at " + ", ".join(known))
    lines += telemetry_notes(report["telemetry"])
    if skipped["count"]:
        names = ", ".join(skipped["names"][:_NAMED_SKIPS])
        lines.append(f"{skipped['count']} damaged images skipped: {names}")
    return lines + [f"warning: {warning}" for warning in report["warnings"]]


def _widths(bits: Mapping[str, Any]) -> str:
    return f"W{bits.get('weights', '?')}A{bits.get('activations', '?')}"


def _means(bits: Mapping[str, Any]) -> list[str]:
    """Return a line with the mean width of weights where it differs with what stays in float."""
    quantized, every = bits.get("weight_mean_quantized"), bits["weight_mean"]
    if quantized is None or quantized == every:
        return []
    return [
        f"mean width of weights: {quantized:.2f} where quantized, {every:.2f} with float layers"
    ]


def counts_lines(model: Mapping[str, Any]) -> list[str]:
    """Return a line with the size of the network, where it is known."""
    parts = []
    if model.get("parameters"):
        parts.append(f"{model['parameters'] / 1e6:.1f} M parameters")
    if model.get("flops"):
        parts.append(f"{_giga(model['flops'])} GFLOPs (multiply-adds) per image")
    return [", ".join(parts)] if parts else []


def _giga(flops: int) -> str:
    return f"{flops / 1e9:.1f}" if flops >= 1e9 else f"{flops / 1e9:.2g}"


def _target(target: Any) -> str:
    return target if isinstance(target, str) else str(target.get("name", _NOTHING))


def _pair(values: Mapping[str, Any]) -> tuple[Any, Any]:
    return values["fp32"], values["engine"]


def _times(fp32: int | None, engine: int | None) -> str:
    if not fp32 or not engine:
        return ""
    ratio, word = (engine / fp32, "larger") if engine > fp32 else (fp32 / engine, "smaller")
    return f"{ratio:.1f}x {word}" if ratio >= 1.05 else "about the same"


def _show_text(value: Any) -> str:
    return _NOTHING if value is None else str(value)


def _percent(value: float | None, digits: int = 2) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f} %"


def _megabytes(size_bytes: int | None) -> str:
    return _NOTHING if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
