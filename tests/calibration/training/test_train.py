"""Training parts: twins of the integer layers, less error than before, resuming."""

import math
from dataclasses import replace
from shutil import copytree

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from short_training import SHORT, new_run

from edgevit.calibration.methods import METHODS
from edgevit.calibration.methods.edgevit import CHOICES, WITH_CODEBOOKS, plan_calibration
from edgevit.calibration.methods.edgevit_train import (
    PartTrainingData,
    Training,
    features_of,
    graph_start,
    importance_of_parts,
    train,
    train_part,
)
from edgevit.calibration.run import calibrate
from edgevit.calibration.search.sequential import walk
from edgevit.calibration.statistics.fisher import sampled_loss
from edgevit.calibration.training.checkpoint import TrainingCheckpoint, fingerprint
from edgevit.calibration.training.trainable import trainable_part
from edgevit.errors import EnvironmentError_, UsageError
from edgevit.graph.interpret import run_graph, run_part
from edgevit.graph.parts import feeds_in, parts_of
from edgevit.quantizers.quantized_graph import IntegerLinear


def with_targets(run, choices=CHOICES):
    """Return the graph of `edgevit`, and gemm name -> the refitted weight that was rounded."""
    plan = plan_calibration(run, choices)
    walk(run, plan.quantized, plan.decide, "layers")
    return plan.quantized, plan.targets


def test_parts_follow_each_other_and_give_the_logits(graph, images):
    parts = parts_of(graph)
    assert len(parts) > 1
    assert [n for part in parts for n in part.gemms] == [gemm.name for gemm in graph.gemms]
    value = images
    with torch.no_grad():
        for part in parts:
            value = run_part(graph, part.start, value, part.stop)
        assert torch.equal(value, run_graph(graph, images))


def test_the_importance_of_a_part_is_that_of_its_own_leaf(graph, images):
    """Against a twin that cuts the network behind the part, image by image."""
    run = new_run(graph, images[:3], memory_bytes=1)
    assert run.batch_size == 1
    parts = parts_of(graph)
    found = importance_of_parts(graph, run, parts)
    assert set(found) == {part.stop for part in parts} - {None}
    for stop in found:
        generator = torch.Generator().manual_seed(run.seed)
        squares = []
        for image in images[:3]:
            with torch.no_grad():
                output = run_part(graph, graph_start(graph), image[None], stop)
            leaf = output.clone().requires_grad_()
            with torch.enable_grad():
                sampled_loss(run_part(graph, stop, leaf, None), generator).backward()
            squares.append(leaf.grad[0] ** 2)
        mean = torch.stack(squares).mean(0)
        assert torch.allclose(found[stop], mean / mean.mean(), rtol=1e-3, atol=1e-5)


def test_a_part_must_be_entered_by_one_tensor_only(vit, images):
    inside = next(g for g in vit.gemms if g.module == "blocks.0.mlp.fc1")
    with pytest.raises(KeyError):
        run_part(vit, inside.left.producer, torch.zeros(1, 5, 32), None)


@pytest.mark.parametrize("choices", [CHOICES, WITH_CODEBOOKS])
def test_trainable_layers_start_as_the_integer_layers(graph, images, choices):
    run = new_run(graph, images)
    quantized, targets = with_targets(run, choices)
    part = trainable_part(quantized, list(run.graph.gemms), targets)

    def both(gemm, left, right):
        """The same input for both: a code that flips must not reach the next layer."""
        expected = quantized.compute(gemm, left, right)
        assert (part.compute(gemm, left, right) - expected).norm() < 1e-3 * expected.norm()
        return expected

    with torch.no_grad():
        run_graph(run.graph, images, gemm=both)
    before = {n: la.weight_codes for n, la in quantized.layers.items() if la.is_linear}
    part.bake()
    for name, codes in before.items():
        assert torch.equal(quantized.layers[name].weight_codes, codes)


@pytest.mark.parametrize("choices", [CHOICES, WITH_CODEBOOKS])
def test_gradients_reach_codes_biases_and_steps(vit, images, choices):
    run = new_run(vit, images)
    quantized, targets = with_targets(run, choices)
    part = trainable_part(quantized, list(run.graph.gemms), targets)
    with torch.enable_grad():
        run_graph(run.graph, images, gemm=part.compute).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in part.codes())
    moved = [float(p.grad.abs().max()) > 0 for p in part.others() if p.grad is not None]
    assert len(moved) > 0.9 * len(part.others())
    assert all(moved)


def test_step_gradient_is_that_of_lsq(vit):
    """Esser et al., eq. 3: round(x/s) - x/s inside the range, the end codes outside."""
    from edgevit.calibration.training.trainable import TrainableGrid
    from edgevit.quantizers.spec import GridSpec
    from edgevit.quantizers.uniform import UniformGrid

    grid = UniformGrid.from_range(GridSpec(bits=3), -1.0, 2.0)
    trained = TrainableGrid(grid)
    x = torch.tensor([-5.0, -0.33, 0.1, 0.77, 9.0])
    trained(x).sum().backward()
    scale, zero = float(grid.scale), int(grid.zero_point)
    slopes = [
        min(max(round(v / scale), -zero), 7 - zero)
        - (v / scale if -zero <= round(v / scale) <= 7 - zero else 0)
        for v in x.tolist()
    ]
    assert float(trained.log_scale.grad) == pytest.approx(sum(slopes) * scale, rel=1e-4)


@pytest.mark.parametrize(("kind", "ends"), [("twin-softmax", (0, 12)), ("twin-gelu", (-4, 12))])
def test_twin_step_gradient_is_that_of_lsq(kind, ends):
    """Whole steps less x/s between the ends, the end beyond; x itself has a gradient between."""
    from edgevit.calibration.training.straight_through import quantize_through
    from edgevit.quantizers.spec import GridSpec
    from edgevit.quantizers.twin import TwinGrid

    spec = GridSpec(kind=kind, bits=3, signed=False, symmetric=False, max_ratio_log2=2)
    grid = TwinGrid(spec=spec, scale=torch.tensor(0.1), ratio_log2=2)
    x = torch.tensor([-0.9, -0.22, 0.13, 0.33, 0.77, 9.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    rounded = quantize_through(x, scale, grid)
    rounded.sum().backward()
    whole = [round(v / 0.1) for v in rounded.tolist()]
    between = [ends[0] - 0.5 <= v / 0.1 <= ends[1] + 0.5 for v in x.tolist()]
    slopes = [n - v / 0.1 * k for n, v, k in zip(whole, x.tolist(), between, strict=True)]
    assert torch.equal(rounded.detach(), grid.fake_quantize(x.detach()))
    assert float(scale.grad) == pytest.approx(sum(slopes), rel=1e-4)
    assert x.grad.tolist() == [float(k) for k in between]
    assert 0 < sum(between) < len(between)


def test_affines_in_front_are_trained_and_kept(vit, images, tmp_path):
    """What is resumed has the same LayerNorms; each belongs to one part only."""
    run = new_run(vit, images, checkpoint=tmp_path)
    parts = parts_of(run.graph)
    feeds = {part.name: feeds_in(run.graph, part) for part in parts}
    assert sorted(len(found) for found in feeds.values()) == [1, 2, 2]
    names = [name for found in feeds.values() for f in found for name in (f.weight, f.bias)]
    assert len(set(names)) == len(names)
    trained = train(run, SHORT)
    plain = calibrate(vit, run.placement, images, METHODS["edgevit"]).graph
    moved = [not torch.equal(trained.graph.constant(n), plain.constant(n)) for n in names]
    assert any(moved)
    again = train(new_run(vit, images, checkpoint=tmp_path), SHORT)
    assert all(torch.equal(trained.graph.constant(n), again.graph.constant(n)) for n in names)
    assert torch.equal(trained.forward(images), again.forward(images))


def test_training_affines_and_weight_steps_keeps_the_integer_form(vit, images):
    """After baking, the integer layer computes what was trained."""
    run = new_run(vit, images)
    quantized, targets = with_targets(run)
    part = parts_of(run.graph)[0]
    gemms = [run.graph.gemm(name) for name in part.gemms]
    learner = trainable_part(quantized, gemms, targets, feeds_in(run.graph, part))
    with torch.no_grad():
        for parameter in [*learner.codes(), *learner.others()]:
            parameter += 0.05 * torch.randn_like(parameter)
        changed = dict(learner.constants())
        trained = run_part(
            run.graph, part.start, images, part.stop, gemm=learner.compute, constants=changed
        )
        assert len(changed) == 4
        learner.bake()
        baked = run_part(run.graph, part.start, images, part.stop, gemm=quantized.compute)
    assert (trained - baked).norm() < 1e-3 * trained.norm()


def error(graph, quantized, images):
    with torch.no_grad():
        wanted = graph.forward(images).log_softmax(1)
    found = quantized.forward(images).log_softmax(1)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


def test_training_brings_the_logits_closer_and_repeats(graph, images, trained):
    run = new_run(graph, images)
    plain = calibrate(graph, run.placement, images, METHODS["edgevit"])
    longer = train(run, Training(iterations=150, batch_size=4))
    assert error(graph, longer, images) < error(graph, plain, images)
    first, again = trained(graph)[0], train(new_run(graph, images), SHORT)
    assert torch.equal(again.forward(images), first.forward(images))


def test_training_that_diverges_leaves_the_parts_as_they_were(vit, images):
    run = new_run(vit, images)
    lost = train(run, replace(SHORT, other_rate=300.0))
    assert bool(torch.isfinite(lost.forward(images)).all())
    kept = train(new_run(vit, images), replace(SHORT, iterations=0))
    assert error(vit, lost, images) <= 1.5 * error(vit, kept, images)


def test_an_interrupted_training_goes_on(vit, images, tmp_path, trained):
    whole, _ = trained(vit)

    class Stop(Exception):
        pass

    def stop_after_one(stage, done, total):
        if stage == "training" and done == 1:
            raise Stop

    with pytest.raises(Stop):
        train(new_run(vit, images, checkpoint=tmp_path, progress=stop_after_one), SHORT)
    kept = list(tmp_path.glob("*.safetensors"))
    assert len(kept) == 1
    stamp = kept[0].stat().st_mtime_ns
    resumed = train(new_run(vit, images, checkpoint=tmp_path), SHORT)
    assert kept[0].stat().st_mtime_ns == stamp
    assert not list(tmp_path.glob("*.partial"))
    assert torch.equal(resumed.forward(images), whole.forward(images))


def test_a_checkpoint_of_another_run_is_refused(vit, images, tmp_path):
    run = new_run(vit, images, checkpoint=tmp_path)
    digest = fingerprint(run, "")
    quantized, _ = with_targets(run)
    name = next(n for n, la in quantized.layers.items() if isinstance(la, IntegerLinear))
    keep = TrainingCheckpoint(folder=tmp_path, digest=digest)
    keep.save("blocks.0", quantized, (name,))
    assert keep.load("blocks.0", quantized, (name,))
    assert not keep.load("blocks.1", quantized, (name,))
    with pytest.raises(UsageError, match="EV217"):
        replace(keep, digest="0" * 64).load("blocks.0", quantized, (name,))
    assert quantized.notes == []
    changed = new_run(vit, images * 2)
    assert fingerprint(changed, "") != digest != fingerprint(run, "other")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def resealed(change):
    """Change the tensors of a part and keep what its metadata says, or seal it again."""

    def damage(path, seal=None):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        change(tensors, next(key for key in tensors if key.endswith(".scale")))
        if seal is not None:
            metadata["sha256"] = seal(tensors)
        save_file(tensors, path, metadata=metadata)

    return damage


def not_a_number(tensors, key):
    tensors[key] = tensors[key] * math.nan


def foreign_key(tensors, key):
    tensors["../../else.scale"] = tensors[key].clone()


def lacking_key(tensors, key):
    del tensors[key]


def other_shape(tensors, key):
    tensors[key] = torch.cat([tensors[key].reshape(-1)] * 2)


def other_dtype(tensors, key):
    tensors[key] = tensors[key].double()


DAMAGED_TENSORS = [not_a_number, foreign_key, lacking_key, other_shape, other_dtype]


@pytest.mark.parametrize("damage", [cut, flip, *map(resealed, DAMAGED_TENSORS)])
def test_a_damaged_part_is_set_aside_and_trained_again(vit, images, tmp_path, damage, trained):
    whole, parts = trained(vit)
    copytree(parts, tmp_path, dirs_exist_ok=True)
    path = min(tmp_path.glob("*.safetensors"))
    good = {key: value.clone() for key, value in load_file(path).items()}  # it maps the file
    damage(path)
    again = train(new_run(vit, images, checkpoint=tmp_path), SHORT)
    assert torch.equal(again.forward(images), whole.forward(images))
    notes = [note for note in again.notes if note not in whole.notes]
    assert len(notes) == 1
    assert notes[0].startswith(f"EV360: the kept part {path.name} was damaged")
    assert path.with_suffix(".damaged").is_file()
    assert all(torch.equal(value, good[key]) for key, value in load_file(path).items())


@pytest.mark.parametrize("change", DAMAGED_TENSORS)
def test_what_does_not_fit_is_not_taken_up_though_it_is_sealed(vit, images, tmp_path, change):
    run = new_run(vit, images, checkpoint=tmp_path)
    quantized, _ = with_targets(run)
    name = next(n for n, la in quantized.layers.items() if isinstance(la, IntegerLinear))
    keep, before = TrainingCheckpoint(folder=tmp_path, digest="0" * 64), quantized.layers[name]
    keep.save("part", quantized, (name,))
    resealed(change)(tmp_path / "part.safetensors", lambda tensors: keep._seal("part", tensors))
    assert not keep.load("part", quantized, (name,))
    assert quantized.layers[name] is before
    assert "SHA-256" not in quantized.notes[0]


def test_a_folder_that_can_not_be_written_is_refused_before_training(vit, images, tmp_path):
    (tmp_path / "file").touch()
    stages = []
    run = new_run(vit, images, checkpoint=tmp_path / "file" / "kept")
    run.progress = lambda stage, done, total: stages.append(stage)
    with pytest.raises(EnvironmentError_, match="EV216"):
        train(run, SHORT)
    assert stages == []


def test_a_part_whose_writing_is_interrupted_is_not_left_behind(vit, images, tmp_path, monkeypatch):
    def stop(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("edgevit.calibration.training.checkpoint.save_file", stop)
    keep = TrainingCheckpoint(folder=tmp_path, digest="0" * 64)
    with pytest.raises(KeyboardInterrupt):
        keep.save("blocks.0", new_run(vit, images).quantized(), ())
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_weighs_features_of_the_float32_rest(graph, images):
    """Trained on nothing but these features, every part brings them closer."""
    run = new_run(graph, images)
    quantized, targets = with_targets(run)
    name = features_of(run.graph)
    for part in parts_of(run.graph)[:-1]:
        gemms = [run.graph.gemm(gemm) for gemm in part.gemms]
        learner = trainable_part(quantized, gemms, targets, feeds_in(run.graph, part))

        def features(compute, part=part):
            start = graph_start(run.graph)
            with torch.no_grad():
                x = run_part(run.graph, start, images, part.start)
                x = run_part(run.graph, part.start, x, part.stop, gemm=compute)
                return run_part(run.graph, part.stop, x, name)

        wanted, before = features(None), features(quantized.compute)
        with torch.no_grad():
            inputs = run_part(run.graph, graph_start(run.graph), images, part.start)
            lesson = PartTrainingData(
                part=part,
                inputs=inputs,
                wanted=run_part(run.graph, part.start, inputs, part.stop),
                importance=torch.zeros(()),  # nothing but the features counts
                outputs=run.graph.forward(images),
                behind=name,
                features=wanted,
            )
        train_part(run.graph, learner, lesson, replace(SHORT, iterations=60, suffix=1.0), 0)
        learner.bake()
        after = features(quantized.compute)
        assert (after - wanted).norm() < 0.9 * (before - wanted).norm()


@pytest.mark.parametrize("signed", [False, True])
def test_codebook_step_gradient_is_that_of_lsq(signed):
    from edgevit.calibration.training.straight_through import quantize_through
    from edgevit.quantizers.codebook import CodebookGrid
    from edgevit.quantizers.spec import GridSpec

    levels, zero = ([-9, -2, 0, 8], 0) if signed else ([91, 98, 100, 108], 100)
    grid = CodebookGrid(
        spec=GridSpec(kind="codebook", bits=2, signed=signed, symmetric=signed),
        scale=torch.tensor(0.1),
        zero_point=torch.tensor(zero, dtype=torch.int32),
        levels=tuple(levels),
    )
    x = torch.tensor([-5.0, -1.2, -0.33, 0.12, 0.77, 1.1, 1.3, 9.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    rounded = quantize_through(x, scale, grid)
    rounded.sum().backward()
    whole = [-9, -9, -2, 0, 8, 8, 8, 8]
    between = [-9.5 <= v / 0.1 <= 8.5 for v in x.tolist()]  # half a fine step beyond the ends
    slopes = [n - v / 0.1 * k for n, v, k in zip(whole, x.tolist(), between, strict=True)]
    assert rounded.tolist() == pytest.approx([0.1 * n for n in whole])
    assert float(scale.grad) == pytest.approx(sum(slopes), rel=1e-4)
    assert x.grad.tolist() == [float(k) for k in between]
