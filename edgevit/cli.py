"""The command line: parse, call the API, show the result. No logic, no heavy import up front.

Tables and progress go to standard error, machine-readable output to ``--json FILE`` (``-`` for
standard output). Exit statuses are those of `edgevit.errors`.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import click

from edgevit.console import (
    check_named,
    check_new_folder,
    check_writable,
    console,
    end_in_order,
    replace_file,
    say,
    say_written,
    show_click_error,
    show_error,
    show_warnings,
    write_json,
)
from edgevit.errors import UsageError
from edgevit.report.named_option import NamedOption
from edgevit.report.unforeseen import error_from_exception
from edgevit.version import __version__

INTERRUPTED = 130
_BITS_HELP = "Width of weights and activations, 2-8."
_METHODS: Any = {"cls": NamedOption, "names": "edgevit.calibration.naming:method_names"}
_TARGETS: Any = {"cls": NamedOption, "names": "edgevit.targets.naming:target_names"}
_ENGINES: Any = {"cls": NamedOption, "names": "edgevit.runner.engines.choice:engine_choices"}


def _eer_options(command: Any) -> Any:
    """Add the options of the Efficient Error Rate."""
    for option in (
        click.option(
            "--eer-reference",
            default="vit_b",
            show_default=True,
            help="... against fp32 of this run, a model's name, a bundle or a JSON report.",
        ),
        click.option("--eer-weights", nargs=2, type=float, help="... its weights; bits and size."),
        click.option(
            "--eer-metric",
            "eer_metrics",
            multiple=True,
            metavar="NAME[=WEIGHT]",
            help="Efficient Error Rate of parameters, flops, bits, size, latency, energy; again "
            "for each.",
        ),
    ):
        command = option(command)
    return command


class _Group(click.Group):
    """Shows every error as what, where, why and what to try, and exits with its status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("standalone_mode", True):
            return self._ran(*args, **kwargs)
        try:
            sys.exit(self._ran(*args, **kwargs))
        except click.ClickException as error:
            show_click_error(error)
            sys.exit(error.exit_code)
        except click.Abort:
            say("Interrupted.")
            sys.exit(INTERRUPTED)

    def _ran(self, *args: Any, **kwargs: Any) -> Any:
        return super().main(*args, **{**kwargs, "standalone_mode": False})

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with show_warnings(), end_in_order():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("Interrupted.")
            sys.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, which it ends in order
        except Exception as error:
            if ctx.params["debug"]:
                say("".join(traceback.format_exception(error)))
            found = error_from_exception(error)
            show_error(found)
            sys.exit(found.exit_status)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.commands, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"{error.message}{hint}", ctx) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgevit")
@click.option(
    "--debug",
    is_flag=True,
    envvar="EDGEVIT_DEBUG",
    help="Show where in the code an error came up.",
)
def main(debug: bool) -> None:
    """Quantize a vision transformer, write a bundle for one device, prove it on the device."""


@main.command()
@click.argument("pattern", default="")
@click.option("--json", "json_path", metavar="FILE", help="Also write the list as JSON.")
def models(pattern: str, json_path: str | None) -> None:
    """List the models that match PATTERN (all short names without one)."""
    from dataclasses import asdict

    from edgevit.report.table import models_table
    from edgevit.zoo import list_models

    rows = [asdict(row) for row in list_models(pattern)]
    write_json(json_path, {"schema_version": 1, "models": rows})
    if rows:
        console().print(models_table(rows))
    else:
        say(f"No model matches {pattern!r}.")


@main.command()
@click.option("--json", "json_path", metavar="FILE", help="Also write the list as JSON.")
def methods(json_path: str | None) -> None:
    """List the calibration methods: paper, images, what they cost and need."""
    from edgevit.calibration.methods import METHODS
    from edgevit.report.table import methods_table

    keys = ("name", "summary", "source", "num_images", "cost", "needs")
    rows = [{key: getattr(method, key) for key in keys} for method in METHODS.values()]
    write_json(json_path, {"schema_version": 1, "methods": rows})
    console().print(methods_table(rows))


def _model_options(command: Any) -> Any:
    """Add the options that say how a model is built and what its pictures are like."""
    for option in reversed(
        (
            click.option("--weights-key", metavar="NAME", help="Which weights of the checkpoint."),
            click.option(
                "--model-arg", multiple=True, metavar="NAME=VALUE", help="As img_size=288."
            ),
            click.option("--input-size", metavar="SIZE", help="As 288, 192x256 or 1x28x28."),
            click.option("--mean", metavar="NUMBERS", help="As 0.5 or 0.485,0.456,0.406."),
            click.option("--std", metavar="NUMBERS", help="As 0.5 or 0.229,0.224,0.225."),
            click.option("--crop-pct", metavar="SHARE", help="Cropped side over resized side."),
            click.option("--interpolation", metavar="NAME", help="bicubic, bilinear, ..."),
        )
    ):
        command = option(command)
    return command


@main.command()
@click.option("--json", "json_path", metavar="FILE", help="Also write the list as JSON.")
def targets(json_path: str | None) -> None:
    """List the targets: what each runs, in which engine, and what has run on hardware."""
    from edgevit.report.table import targets_table
    from edgevit.targets.listing import list_targets

    check_writable(json_path)
    rows = list_targets()
    write_json(json_path, {"schema_version": 1, "targets": rows})
    console().print(targets_table(rows))


@main.command()
@click.option("--model", help="Model name; see `edgevit models`. A recipe may say it.")
@click.option(
    "--recipe",
    metavar="FILE",
    help="recipe.toml of a bundle, or one of your own: says what is not given here.",
)
@click.option("--bits", default=6, show_default=True, help=_BITS_HELP)
@click.option("--weight-bits", type=int, help="Width of weights alone.")
@click.option("--act-bits", type=int, help="Width of activations alone.")
@click.option(
    "--avg-bits",
    type=float,
    help="Choose widths per layer; their mean over what is quantized is at most this.",
)
@click.option(
    "--max-size-mb",
    type=float,
    help="Choose weight widths per layer; graph.onnx and weights.bin together take at most this.",
)
@click.option("--allocation", default="fisher", show_default=True, help="... by fisher or nuclear.")
@click.option(
    "--method", default="edgevit", show_default=True, help="Calibration method:", **_METHODS
)
@click.option("--calib", metavar="DIR", help="Calibration images: class folders, archive or .npz.")
@click.option("--num-calib", type=int, help="How many of them to use; the method's own number.")
@click.option(
    "--target", default="cpu", show_default=True, help="Device the bundle is for:", **_TARGETS
)
@click.option("--weights", metavar="FILE", help="Checkpoint (.safetensors, .pth) for the model.")
@click.option("--pretrained/--no-pretrained", default=True, help="Trained or random weights.")
@click.option("--float-layer", "float_layers", multiple=True, help="Layer or block kept in float.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything drawn at random.")
@click.option("--checkpoint", metavar="DIR", help="Where edgevit-train keeps and finds its work.")
@_model_options
@click.option("--task", metavar="NAME", help="classify, embed, segment, detect or features.")
@click.option("--trust-code", is_flag=True, help="Run the code that a recipe names as its model.")
@click.option("--classes", metavar="FILE", help="Class names in the order of the outputs.")
@click.option("--class-order", metavar="LIBRARY", help="torchvision or timm, without names.")
@click.option("--allow-fallback", is_flag=True, help="Keep products that RTX cards run in float.")
@click.option("--reference/--no-reference", default=True, help="Keep the fp32 model for comparing.")
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@click.option("-o", "--output", metavar="OUT", help="Bundle folder to write; named if left out.")
@click.option("--json", "json_path", metavar="FILE", help="Write a summary as JSON.")
def quantize(
    calib: str | None,
    output: str | None,
    json_path: str | None,
    reference: bool,
    overwrite: bool,
    **choices: Any,
) -> None:
    """Quantize a model and write a bundle.

    What is given here wins over --recipe FILE, and that over the defaults. A recipe holds no images
    and no weights: --calib has to be given again, and --weights if it was made with one.

    Without -o the bundle is named after model, widths and target, as in swin_b_w6a6_cpu, with a
    number behind it where that name is taken. Without --calib a model of photographs is calibrated
    on some that come with EdgeViT, and the report warns of it.
    """
    from edgevit.report.table import inspect_table

    if choices["recipe"] is not None:
        choices = _explicit(choices)
    choices = _read_types(choices)
    if output is None:
        output = _name_of_output(overwrite, choices)
    refuse_existing(output, overwrite)
    check_writable(json_path)
    manifest = _quantize(calib, output, overwrite, reference, choices)
    write_json(json_path, manifest)
    console().print(inspect_table(manifest))
    say_written(output)


def refuse_existing(output: str, overwrite: bool) -> None:
    """Fail before the work starts instead of after it.

    Raises:
        UsageError: The output has no name (EV223), or is there and may not be replaced (EV411).
    """
    from edgevit.bundle.new_folder import check_target

    check_named(output)
    check_target(Path(output), overwrite)
    check_new_folder(Path(output))


def _name_of_output(overwrite: bool, choices: dict[str, Any]) -> str:
    """Return a name for the bundle, in the working directory."""
    from edgevit.bundle.naming import free_name
    from edgevit.verbs.options import options_from

    budget = {key: choices.get(key) for key in ("avg_bits", "max_size_mb")}
    others = {"recipe", "allocation", "checkpoint", "allow_fallback", *budget}
    asked = options_from(
        choices.get("recipe"),
        budget=budget["avg_bits"] is not None,
        **{key: value for key, value in choices.items() if key not in others},
    )
    name = asked.bundle_name(**budget)
    free = name if overwrite else free_name(Path(), name)
    if free != name:
        click.echo(f"{name} is there already and is kept: the new bundle is {free}", err=True)
    return free


def _explicit(choices: dict[str, Any]) -> dict[str, Any]:
    """Return the choices that the user made, without defaults."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    return {
        name: value
        for name, value in choices.items()
        if context.get_parameter_source(name) is not default
    }


def _read_types(choices: dict[str, Any]) -> dict[str, Any]:
    from edgevit.zoo.choices import model_choices

    return model_choices(choices)


def _quantize(
    images: Any, output: str, overwrite: bool, reference: bool, choices: dict[str, Any]
) -> dict[str, Any]:
    """Write the bundle; return its manifest and sizes, as read back from it."""
    from edgevit import api
    from edgevit.report.progress import show_progress

    model = choices.pop("model", None)
    with show_progress(console()) as progress:
        artefact = api.quantize(model, images, compare_act_bits=True, progress=progress, **choices)
        progress("write bundle", 0, 1)
        bundle = artefact.save(output, overwrite=overwrite, include_reference=reference)
        progress("write bundle", 1, 1)
    return api.inspect(bundle.path)


@main.command()
@click.argument("bundle")
@click.option("--data", required=True, metavar="DIR", help="Labelled images: class folders etc.")
@click.option("--num", type=int, help="Use this many images, drawn class-balanced.")
@click.option("--seed", default=0, show_default=True, help="Seed of that draw.")
@click.option("--max-drop", type=float, help="Fail if accuracy drops by more points than this.")
@click.option("--max-latency-ms", type=float, help="Fail if the median latency is above this.")
@click.option("--threads", type=int, help="CPU threads; the engine's own choice if left out.")
@click.option("--batch", default=1, show_default=True, help="Batch size of the latency runs.")
@click.option("--rounds", default=50, show_default=True, help="Latency rounds, fp32 and engine.")
@click.option("--provider", help="ORT provider; the bundle's own if left out.")
@click.option("--engine", default="auto", show_default=True, help="Engine:", **_ENGINES)
@_eer_options
@click.option("--classes", metavar="FILE", help="Class names in the order of the outputs.")
@click.option("--class-order", metavar="LIBRARY", help="torchvision or timm, without names.")
@click.option("--masks", metavar="FOLDER", help="Label maps (PNG) of the images, to segment.")
@click.option("--annotations", metavar="FILE", help="Boxes in COCO's JSON format, to detect.")
@click.option("--trust-code", is_flag=True, help="Run the bundle's engines compiled elsewhere.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON.")
def validate(bundle: str, data: str, json_path: str | None, **choices: Any) -> None:
    """Measure a bundle on this device: accuracy, agreement, latency, memory, size."""
    _validate(bundle, data, json_path, choices)


def _validate(bundle: str, data: Any, json_path: str | None, choices: dict[str, Any]) -> None:
    from edgevit import api
    from edgevit.report.progress import show_progress
    from edgevit.report.table import validation_table

    check_writable(json_path)
    max_drop, max_latency = choices.get("max_drop"), choices.get("max_latency_ms")
    with show_progress(console()) as progress:
        report = api.validate(bundle, data, progress=progress, **choices)
    write_json(json_path, report)
    console().print(validation_table(report))
    api.check_gates(report, max_drop=max_drop, max_latency_ms=max_latency)


@main.command()
@click.argument("bundle")
@click.option("--json", "json_path", metavar="FILE", help="Write the manifest as JSON.")
def inspect(bundle: str, json_path: str | None) -> None:
    """Show what is in a bundle, layer by layer, after verifying every file."""
    from edgevit import api
    from edgevit.report.table import inspect_table

    manifest = api.inspect(bundle)
    write_json(json_path, manifest)
    console().print(inspect_table(manifest))


@main.command()
@click.argument("bundle")
@click.option("--for", "cards", metavar="LIST", help="Cards, as sm86,sm89; the target's own.")
@click.option("--variant", "variants", multiple=True, help="A form to compile; again for more.")
@click.option("--max-batch", type=int, help="Largest batch of the engines; 16 if left out.")
@click.option("--best-batch", type=int, help="Batch that they are made for; 8 if left out.")
@click.option("-o", "--output", metavar="OUT", help="New bundle; the bundle itself is changed.")
@click.option("--overwrite", is_flag=True, help="Replace the new bundle if it exists.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON.")
def build(bundle: str, cards: str | None, json_path: str | None, **choices: Any) -> None:
    """Compile a bundle ahead of time for NVIDIA's cards, which need not be there."""
    from edgevit import api
    from edgevit.report.kernels import build_report
    from edgevit.report.progress import show_progress

    if choices["output"] is not None:
        refuse_existing(choices["output"], choices["overwrite"])
    check_writable(json_path)
    choices["capabilities"] = () if cards is None else cards.split(",")
    with show_progress(console()) as progress:
        report = api.build(bundle, progress=progress, **choices)
    write_json(json_path, report)
    console().print(build_report(report))
    say_written(choices["output"] or bundle)


@main.command()
@click.option("--model", required=True, help="Model name; see `edgevit models`.")
@click.option("--bits", default=6, show_default=True, help=_BITS_HELP)
@click.option("--weight-bits", type=int, help="Width of weights alone.")
@click.option("--act-bits", type=int, help="Width of activations alone.")
@click.option("--method", help="Calibration method; each layer on its own if left out:", **_METHODS)
@click.option("--calib", metavar="DIR", help="Calibration images: class folders, archive or .npz.")
@click.option("--num-calib", default=32, show_default=True, help="How many of them to use.")
@click.option("--data", metavar="DIR", help="Labelled images, for accuracy layer by layer.")
@click.option("--num", default=200, show_default=True, help="How many of them to use.")
@click.option(
    "--target", default="cpu", show_default=True, help="Device whose grids are used:", **_TARGETS
)
@click.option("--weights", metavar="FILE", help="Checkpoint (.safetensors, .pth) for the model.")
@click.option("--pretrained/--no-pretrained", default=True, help="Trained or random weights.")
@click.option("--float-layer", "float_layers", multiple=True, help="Layer or block kept in float.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything drawn at random.")
@_model_options
@click.option("--classes", metavar="FILE", help="Class names in the order of the outputs.")
@click.option("--class-order", metavar="LIBRARY", help="torchvision or timm, without names.")
@click.option("-o", "--output", required=True, metavar="CSV", help="Table to write.")
@click.option("--plot", metavar="PNG", help="Picture to write; needs matplotlib.")
def sensitivity(
    model: str, calib: str | None, output: str, plot: str | None, **choices: Any
) -> None:
    """Show what each layer costs when it is quantized, in simulation."""
    from edgevit import api
    from edgevit.report.progress import show_progress
    from edgevit.report.sensitivity import csv_from_rows, sensitivity_table
    from edgevit.report.sensitivity_plot import check_plot, write_plot

    check_writable(output, plot)
    if plot is not None:
        check_plot(plot)
    with show_progress(console()) as progress:
        rows = api.sensitivity(model, calib, progress=progress, **_read_types(choices))
    text = csv_from_rows(rows)
    replace_file(Path(output), lambda path: path.write_text(text, encoding="utf-8"))
    if plot is not None:
        form = Path(plot).suffix[1:].lower()
        replace_file(Path(plot), lambda path: write_plot(rows, path, form))
    console().print(sensitivity_table(rows))
    say_written(output)


@main.command()
@click.option("--model", help="Model name; see `edgevit models`. A recipe may say it.")
@click.option("--recipe", metavar="FILE", help="recipe.toml that says what is not given here.")
@click.option(
    "--method", "methods", multiple=True, **_METHODS, help="Calibration method; again for more."
)
@click.option("--bits", default=6, show_default=True, help=_BITS_HELP)
@click.option("--weight-bits", type=int, help="Width of weights alone.")
@click.option("--act-bits", type=int, help="Width of activations alone.")
@click.option("--calib", metavar="DIR", help="Calibration images: class folders, archive or .npz.")
@click.option("--num-calib", type=int, help="How many of them to use; each method's own number.")
@click.option("--data", metavar="DIR", help="Images to compare on; labels are not needed.")
@click.option("--num", type=int, help="Use this many of them, drawn class-balanced.")
@click.option("--labels/--no-labels", default=True, help="Class folders are labels, or folders.")
@click.option(
    "--target", default="simulation", show_default=True, **_TARGETS, help="Whose grids are used."
)
@click.option("--weights", metavar="FILE", help="Checkpoint (.safetensors, .pth) for the model.")
@click.option("--pretrained/--no-pretrained", default=True, help="Trained or random weights.")
@click.option("--float-layer", "float_layers", multiple=True, help="Layer or block kept in float.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything drawn at random.")
@_model_options
@click.option("--trust-code", is_flag=True, help="Run the code that a recipe names as its model.")
@click.option("--classes", metavar="FILE", help="Class names in the order of the outputs.")
@click.option("--class-order", metavar="LIBRARY", help="torchvision or timm, without names.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON.")
def simulate(calib: str | None, data: str | None, json_path: str | None, **choices: Any) -> None:
    """Compare methods with fp32 in simulation, also with grids that no device runs."""
    from edgevit import api
    from edgevit.report.progress import show_progress
    from edgevit.report.simulation import simulation_table

    check_writable(json_path)
    if choices["recipe"] is not None:
        choices = _explicit(choices)
    choices = _read_types(choices)
    model = choices.pop("model", None)
    with show_progress(console()) as progress:
        report = api.compare_methods(model, calib, data, progress=progress, **choices)
    write_json(json_path, report)
    console().print(simulation_table(report))


@main.command()
@click.option("--model", default="vit_cifar10", show_default=True, help="Embedded model.")
@click.option("--bits", default=6, show_default=True, help=_BITS_HELP)
@click.option("-o", "--output", default="demo_bundle", show_default=True, help="Bundle folder.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON.")
def demo(model: str, bits: int, output: str, json_path: str | None) -> None:
    """Quantize a small trained model that ships with EdgeViT and validate it on this CPU."""
    from edgevit.data.paths import look_at
    from edgevit.zoo import reference_images

    _check_embedded(model)
    is_bundle = look_at(Path(output) / "manifest.json").kind == "file"
    refuse_existing(output, is_bundle)  # an earlier demo's bundle may be replaced
    check_writable(json_path)
    images = str(reference_images("calibration"))
    choices = {"model": model, "bits": bits}
    _quantize(images, output, True, True, choices)
    _validate(output, str(reference_images("test")), json_path, {})


@main.command()
@click.argument("model")
@click.option("--target", metavar="DEVICE", help="TensorRT device; a bundle's own if left out.")
@click.option("--tensorrt", metavar="RANGE", help="Releases to serve: 10.3, or 10.3-11.4.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "fp8"]),
    help="What a file's engine is meant to have; a bundle knows.",
)
@click.option("--json", "json_path", metavar="FILE", help="Write all findings as JSON.")
def check(model: str, json_path: str | None, **choices: Any) -> None:
    """Check an ONNX file or a bundle against the rules of a TensorRT device."""
    from edgevit import api
    from edgevit.report.conformance import conformance_table

    check_writable(json_path)
    report = api.check(model, **choices)
    write_json(json_path, report)
    console().print(conformance_table(report))
    api.refuse_errors(report)


@main.command()
@click.argument("bundle")
@click.option("--device", required=True, metavar="USER@HOST", help="Board, as `ssh` knows it.")
@click.option("--data", required=True, metavar="DIR", help="Labelled images: class folders etc.")
@click.option("--num", type=int, help="Use this many images, drawn class-balanced.")
@click.option("--seed", default=0, show_default=True, help="Seed of that draw.")
@click.option("--max-drop", type=float, help="Fail if accuracy drops by more points than this.")
@click.option("--max-latency-ms", type=float, help="Fail if the median latency is above this.")
@click.option("--engine", default="auto", show_default=True, help="Engine:", **_ENGINES)
@click.option("--threads", type=int, help="CPU threads there; the engine's own choice if left out.")
@click.option("--batch", default=1, show_default=True, help="Batch size of the latency runs.")
@click.option("--rounds", default=50, show_default=True, help="Latency rounds, fp32 and engine.")
@click.option("--keep", is_flag=True, help="Leave bundle, images and runner on the board.")
@click.option("--python", default="python3", show_default=True, help="The board's Python.")
@click.option("--folder", metavar="DIR", help="Where on the board; its ~/.cache if left out.")
@_eer_options
@click.option("--classes", metavar="FILE", help="Class names in the order of the outputs.")
@click.option("--class-order", metavar="LIBRARY", help="torchvision or timm, without names.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON.")
def deploy(bundle: str, json_path: str | None, **choices: Any) -> None:
    """Measure a bundle on a board over SSH and bring the report back."""
    from edgevit import api
    from edgevit.report.progress import show_progress
    from edgevit.report.table import device_lines, validation_table

    check_writable(json_path)
    max_drop, max_latency = choices["max_drop"], choices.pop("max_latency_ms")
    with show_progress(console()) as progress:
        report = api.deploy(bundle, progress=progress, **choices)
    write_json(json_path, report)
    console().print(validation_table(report), device_lines(report["device"]))
    api.check_gates(report, max_drop=max_drop, max_latency_ms=max_latency)


@main.command()
@click.option(
    "--device", metavar="USER@HOST", help="A board, over your own ssh; else this machine."
)
@click.option("--target", help="The target that bundles are for; the device's own if left out.")
@click.option("--python", default="python3", show_default=True, help="The board's Python.")
@click.option("--json", "json_path", metavar="FILE", help="Write facts and findings as JSON.")
def doctor(device: str | None, target: str | None, python: str, json_path: str | None) -> None:
    """Say what is missing here or on a board, and the command that mends it."""
    from edgevit.report.doctor import doctor_list
    from edgevit.verbs.doctor import check_nothing_missing, examine

    check_writable(json_path)
    found = examine(device, target, python=python)
    write_json(json_path, found)
    console().print(doctor_list(found), soft_wrap=True)
    check_nothing_missing(found)


@main.command()
@click.argument("bundle")
@click.option("--batch", default=1, show_default=True, help="Batch size.")
@click.option("--variant", metavar="NAME", help="Form to explain; the main one if left out.")
@click.option("--threads", type=int, help="CPU threads; the engine's own choice if left out.")
@click.option("--rounds", default=30, show_default=True, help="Rounds of a bundle that runs here.")
@click.option("--json", "json_path", metavar="FILE", help="Write the report as JSON.")
@click.option("--plot", metavar="PNG", help="Picture to write; needs matplotlib.")
def explain(bundle: str, json_path: str | None, plot: str | None, **choices: Any) -> None:
    """Show where the time goes, block by block, and why 8 bits are not faster."""
    from edgevit import api
    from edgevit.report.explain import explain_table
    from edgevit.report.explain_plot import write_explanation
    from edgevit.report.progress import show_progress
    from edgevit.report.sensitivity_plot import check_plot

    check_writable(json_path, plot)
    if plot is not None:
        check_plot(plot)
    with show_progress(console()) as progress:
        report = api.explain(bundle, progress=progress, **choices)
    write_json(json_path, report)
    if plot is not None:
        form = Path(plot).suffix[1:].lower()
        replace_file(Path(plot), lambda path: write_explanation(report, path, form))
    console().print(explain_table(report), soft_wrap=True)


def _check_embedded(model: str) -> None:
    """Refuse a model whose weights and images do not come with EdgeViT.

    Raises:
        UsageError: It is not embedded (EV224).
    """
    from edgevit.zoo import EMBEDDED_MODELS

    if model not in EMBEDDED_MODELS:
        raise UsageError(
            "EV224",
            f"The demo has no model {model!r}.",
            where="--model",
            why="It shows models whose weights and images are installed with EdgeViT: "
            f"{', '.join(EMBEDDED_MODELS)}.",
            try_next=f"--model {' or --model '.join(EMBEDDED_MODELS)}; other models with "
            "`edgevit quantize` and images of your own.",
        )


if __name__ == "__main__":
    main()
