"""Bundles that earlier versions wrote still open, and compute what they did when they were written.

They lie under `recorded/COMMIT` and are never written again; `record_bundles.py` made them with the
package of that commit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from packaging import version

from edgevit import api
from edgevit.bundle import Bundle, open_bundle
from edgevit.data.normalizing import normalizer
from edgevit.recipe import Recipe
from edgevit.runner.engines.onnxruntime.session import session_from_bundle, variant_here
from edgevit.targets.tensorrt.parity import AsWritten

RECORDED = Path(__file__).parent / "recorded"
WRITTEN = {
    "bf88222/swin_w8a8_cpu": "3560fdd467feda2338b2c4293c162e1df738c505710fe1cbfcc20da0ae21ffcf",
    "bf88222/vit_codebooks_w4a4_cpu": (
        "05287ababdfdb334c7c7ed3eb03a7519f2eaeb4be75460b212519138e749b6c7"
    ),
    "bf88222/vit_twins_w4a4_cpu": (
        "1b426b8690976c9ed34be74c210474ec251c1fce6236bb0cf7090a40da82f235"
    ),
    "bf88222/vit_w8a8_jetson": "fcee1d1ff5f07b37647c87d0dfb93cade3a59431f289d7dfe56e5a1e01fda9bd",
}
"""SHA-256 of each manifest, which holds those of all other files."""
MOST_BYTES = 100_000


def _images(bundle: Bundle) -> np.ndarray:
    """float32 [4, 3, 16, 16]."""
    return normalizer(bundle.preprocessing)(bundle.golden()["images"])


def test_every_recorded_bundle_is_as_it_was_written() -> None:
    folders = {path.parent for path in RECORDED.glob("*/*/manifest.json")}
    assert {folder.relative_to(RECORDED).as_posix() for folder in folders} == set(WRITTEN)
    for name, digest in WRITTEN.items():
        assert open_bundle(RECORDED / name).manifest["manifest_sha256"] == digest
        size = sum(path.stat().st_size for path in (RECORDED / name).iterdir())
        assert size < MOST_BYTES, name


def test_every_kind_of_grid_of_that_time_is_among_them() -> None:
    manifests = [open_bundle(RECORDED / name).manifest for name in WRITTEN]
    grids = {str(row.get("grid")).split()[0] for m in manifests for row in m["layers"]}
    uniform = {"asymmetric", "symmetric"}
    assert grids >= uniform | {"twin-softmax", "twin-gelu", "codebook"}


@pytest.mark.parametrize("name", [name for name in WRITTEN if name.endswith("_cpu")])
def test_a_bundle_for_cpus_computes_its_simulation(name: str) -> None:
    bundle = open_bundle(RECORDED / name)
    main, *others = bundle.variants
    exact = {main, *others} if variant_here(bundle) == main else set(others)
    for variant in exact:
        found = session_from_bundle(bundle, threads=1, variant=variant).run(_images(bundle))
        wanted = bundle.golden(variant)["logits_simulated"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=variant)


def test_a_bundle_for_a_jetson_computes_its_simulation() -> None:
    bundle = open_bundle(RECORDED / "bf88222/vit_w8a8_jetson")
    assert bundle.variants == ("int8", "fp16")
    for variant in bundle.variants:
        wanted = bundle.golden(variant)["logits_simulated"]
        found = AsWritten(bundle.engine_onnx(variant)).run(_images(bundle))
        # older float16 kernels of ONNX Runtime round otherwise: 0.11 with 1.23.2
        is_old = version.parse(onnxruntime.__version__) < version.parse("1.32")
        near, far = (0.2, 0.2) if is_old else (1e-5, 0.1)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=near, err_msg=variant)
        assert (found.argmax(1) == wanted.argmax(1)).all()
        # ONNX Runtime on its own leaves out some of the rounding to float16
        loose = session_from_bundle(bundle, threads=1, variant=variant).run(_images(bundle))
        assert np.abs(loose - wanted).max() < far
        assert (loose.argmax(1) == wanted.argmax(1)).all()


@pytest.mark.parametrize("name", WRITTEN)
def test_its_float32_model_its_recipe_and_its_card_can_be_read(name: str) -> None:
    bundle = open_bundle(RECORDED / name)
    found = session_from_bundle(bundle, "fp32", threads=1).run(_images(bundle))
    np.testing.assert_allclose(found, bundle.golden()["logits_fp32"], rtol=0, atol=1e-5)
    recipe = Recipe.from_toml(RECORDED / name / "recipe.toml")
    assert recipe.to_dict() == bundle.manifest["recipe"]
    sizes = api.inspect(RECORDED / name)["size_bytes"]
    assert 0 < sizes["engine"] < sizes["total"]
