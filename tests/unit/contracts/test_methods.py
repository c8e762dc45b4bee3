"""The contract that every method, ours or a plug-in, must fulfil. Methods and jobs are discovered by the tests."""

from __future__ import annotations

import copy
import inspect
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import ROOT
from faces import write_face_data_set
from facscale import methods
from facscale.cli import main
from facscale.cli.methods import CITATION
from facscale.data import augment
from facscale.data.augment import Augmenter
from facscale.data.degrade import find_degraded
from facscale.data.stream import Stream
from facscale.data.views import Faces
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts
from facscale.methods.base import sum_losses
from facscale.nn import ResNet
from facscale.spec import Block, SpecError, parse, read_spec
from facscale.spec.models import Augment, Data
from facscale.testing import check_method
from harmful import Harmful
from tiny import get_tiny_options

FACTS = DataFacts(
    aus=(1, 12),
    label_weights=((0.6, 0.7), (2.0, 3.0)),
    au_weights=(0.5, 1.5),
    sets=((1, 12),),
    identities=6,
    image_size=32,
)
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
BUILT_IN = [name for name in methods.list_methods() if (Path(methods.__file__).parent / f"{name}.py").exists()]
PLUGINS = ["tiny-gan", "tiny-staged"]
INPUTS = {"tiny-staged": {"teacher": "tiny-gan"}, "aunet on fan": {"fan": "fan", "labels": "labelvae"}}


@pytest.fixture(params=[*BUILT_IN, *PLUGINS, "aunet on fan"])
def case(request, plugins):
    """A method's class, a small configuration, and a way to build it."""
    name = request.param.split(" ")[0]
    kind = methods.find_method(name)
    config = kind.Config(**get_tiny_options(kind.Config))

    def build():
        torch.manual_seed(0)
        inputs = {}
        for argument, other in INPUTS.get(request.param, {}).items():
            below = methods.find_method(other)
            inputs[argument] = export.build_method(other, below.Config(**get_tiny_options(below.Config)), FACTS)
        return export.build_method(name, config, FACTS, **inputs)

    return name, kind, config, build


def make_batch(kind, config, seed=0):
    return make_random_batch(kind.train_views(config), size=32, aus=2, samples=6, seed=seed)


def step(method, batch):
    """One step of every phase with plain SGD, and the losses."""
    losses = {}
    for phase, modules in method.phases().items():
        parameters = [p for name in modules for p in method.get_submodule(name).parameters() if p.requires_grad]
        losses |= (result := getattr(method, phase)(batch))
        gradients = torch.autograd.grad(sum_losses(result), parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(0.05 * gradient)
    method.after_step()
    return losses


def test_methods_are_listed_by_module_name_and_entry_point(plugins):
    assert {"clp", "supervised"} <= set(methods.list_methods())
    assert methods.find_method("clp").__name__ == "CLP"
    assert methods.find_method("tiny-gan").__module__ == "tiny_methods"
    with pytest.raises(SpecError, match='no method "clq" \\(did you mean "clp"'):
        methods.find_method("clq")
    with pytest.raises(SpecError, match="not a facscale Method"):
        methods.find_method("not-a-method")


def test_a_plug_in_that_fails_or_is_hidden_is_named_and_ends_nothing(tmp_path, monkeypatch):
    (tmp_path / "broken_methods.py").write_text("import no_such_package\n")
    info = tmp_path / "broken_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-methods\nVersion: 1.0\n")
    points = "[facscale.methods]\nbroken = broken_methods:Broken\nclp = broken_methods:CLP\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match='the method "broken" of broken-methods cannot be loaded .*no_such_package'):
        methods.find_method("broken")
    assert methods.find_method("clp").__module__ == "facscale.methods.clp"
    done = CliRunner().invoke(main, ["methods"])
    assert done.exit_code == 0
    text = " ".join(done.output.split())
    assert 'broken cannot be used error the method "broken" of broken-methods cannot be loaded' in text
    assert "clp of broken-methods is hidden by facscale's own method of that name" in text
    assert "simclr" in text


def test_a_spec_can_name_no_other_code():
    for name in ("base", "export", "os", "facscale.methods.clp", "../clp", "clp:CLP"):
        with pytest.raises(SpecError, match="there is no method"):
            methods.find_method(name)


def test_every_method_of_ours_has_a_job():
    jobs = [read_job(path)[0] for path in JOBS]
    named = {job.method.name for job in jobs}
    staged = {stage["method"]["name"] for job in jobs for stage in job.stages.values() if "method" in stage}
    assert {name for name in BUILT_IN if methods.find_method(name).has_image_encoder} <= named
    assert set(BUILT_IN) <= named | staged


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_validates_and_can_be_executed(path, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    job, kind, config = read_job(path)
    assert kind.train_views(config)
    assert path.read_text().startswith("#!/usr/bin/env -S facscale run\n#")
    assert path.stat().st_mode & 0o111
    for row in job.evaluate.baselines:  # none of ours is null
        methods.configure(read_spec(path).apply_patch(("evaluate", "baselines", row)))


def read_job(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACSCALE_DATA", "s3://faces")
        return methods.configure(read_spec(path))


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_pipeline_validates_and_can_be_executed(path, monkeypatch):
    from facscale.ingest import configure

    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    assert configure(read_spec(path)).output.startswith("s3://faces/")
    assert path.read_text().startswith("#!/usr/bin/env -S facscale run\n#")
    assert path.stat().st_mode & 0o111


def test_configurations_are_closed_and_frozen(case):
    _, kind, config, _ = case
    assert issubclass(kind.Config, Block)
    with pytest.raises(ValueError, match="extra"):
        kind.Config(no_such_key=1)
    with pytest.raises(ValueError, match="frozen"):
        config.anything = 1


def test_the_docstring_is_there(case):
    assert case[1].__doc__
    assert len(case[1].__doc__) > 40


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_docstring_of_ours_begins_with_a_citation_and_its_year(name):
    first, _ = inspect.getdoc(methods.find_method(name)).split("\n\n", 1)
    assert CITATION.fullmatch(first), first


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_docstring_of_ours_lists_the_departures_from_the_paper(name):
    """`facscale methods NAME` prints it."""
    paragraphs = inspect.getdoc(methods.find_method(name)).split("\n\n")
    found = [number for number, text in enumerate(paragraphs) if text.startswith("Departures from the paper")]
    assert len(found) == 1, "one paragraph begins with 'Departures from the paper'"
    assert paragraphs[found[0]].endswith("none is known.") or paragraphs[found[0] + 1].startswith("- ")
    assert "Differs from" not in "".join(paragraphs)


def test_every_trainable_parameter_lies_in_exactly_one_root(case):
    _, kind, _, build = case
    method = build()
    names = [name for root in kind.roots() for name in root.modules]
    held = [id(p) for name in names for p in method.get_submodule(name).parameters()]
    assert len(held) == len(set(held))
    assert {id(p) for p in method.parameters() if p.requires_grad} <= set(held)


def test_each_phase_gives_gradient_to_its_root_and_no_other(case):
    _, kind, config, build = case
    method = build()
    step(method, make_batch(kind, config, seed=1))  # queues are not empty any more
    for phase, modules in kind.phases().items():
        roots = {
            name: list(method.get_submodule(name).parameters()) for names in kind.phases().values() for name in names
        }
        for name, parameters in roots.items():
            for parameter in parameters:
                parameter.grad = None
                parameter.requires_grad_(name in modules)
        sum_losses(getattr(method, phase)(make_batch(kind, config, seed=2))).backward()
        for name, parameters in roots.items():
            touched = any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
            assert touched == (name in modules), f"{phase} and {name}"


def test_losses_are_named_scalars_and_stay_finite(case):
    _, kind, config, build = case
    method = build()
    losses = [step(method, make_batch(kind, config, seed=seed)) for seed in range(10)]
    assert all(loss.value.dim() == 0 and loss.value.isfinite() for result in losses for loss in result.values())
    assert len({frozenset(result) for result in losses}) == 1


class SamplingRecorder(TorchFunctionMode):
    """Records the dtypes of everything that positions are computed or sampled with."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ in ("grid_sample", "affine_grid", "linspace", "cumsum", "logsumexp"):
            self.dtypes |= {(function.__name__, value.dtype) for value in args if torch.is_tensor(value)}
        return function(*args, **(kwargs or {}))


def test_positions_and_losses_are_float32_under_autocast(case):
    name, kind, config, build = case
    method = build()
    step(method, make_batch(kind, config))
    with SamplingRecorder() as recorder, torch.autocast("cpu", torch.bfloat16):
        losses = step(method, make_batch(kind, config, seed=1))
        motion = method.predict_motion(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    if name in BUILT_IN:
        assert {loss.value.dtype for loss in losses.values()} <= {torch.float32}
    assert {displacements.dtype for displacements in motion.values()} <= {torch.float32}
    rounded = {name for name, dtype in recorder.dtypes if dtype in (torch.bfloat16, torch.float16)}
    assert not rounded


def test_training_continues_bitwise_equal_from_a_saved_state(case, tmp_path):
    _, kind, config, build = case
    method = build()
    for seed in range(3):
        step(method, make_batch(kind, config, seed=seed))
    other = build()
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    for twin in (method, other):
        torch.manual_seed(5)
        step(twin, make_batch(kind, config, seed=9))
    assert have_equal_states(method, other)


def test_an_export_rebuilds_the_method(case):
    _, kind, config, build = case
    method = build()
    step(method, make_batch(kind, config))
    loaded = export.load_export(export.save_export(method))
    assert have_equal_states(method, loaded)
    assert loaded.config == config
    if not kind.has_image_encoder:
        return
    images = torch.rand(3, 3, 32, 32)
    rebuilt = export.Exported(**asdict(loaded.recipe))
    rebuilt.load_state_dict({f"encoder.{key}": value for key, value in method.encoder.state_dict().items()})
    torch.testing.assert_close(rebuilt.eval()(images), method.eval().encoder(images))
    assert loaded.encoder(images).shape == (3, method.encoder.dim)


def test_the_stream_yields_its_sample(case, tmp_path):
    _, kind, config, _ = case
    views = kind.train_views(config)
    data = write_face_data_set(str(tmp_path / "d"), [20] * 6, au=(1, 12), flow=True, row_group_mb=0.5)
    for source in {view.source for view in views.values()}:
        wanted = {name: view for name, view in views.items() if view.source == source}
        stream = Stream([data], wanted, spec=Data(image_size=24), batch_size=4, seed=0)
        batches = stream.batches()
        batch = Augmenter(size=24)(next(batches))
        batches.close()
        for name, view in wanted.items():
            side = 24 if view.pixels else 0
            assert batch[name].images.shape == (4, view.count, view.views, 3, side, side)
            assert set(batch[name].columns) == set(view.columns)


class MadeFromNumbers(TorchFunctionMode):
    """Fails on tensors on "meta" that are made of Python numbers, also as an index: each is a copy from the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        makes_tensor = func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and result.is_meta
        is_index = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].is_meta
        index = args[1] if is_index and isinstance(args[1], tuple) else args[1:2] if is_index else ()
        assert not makes_tensor, "a tensor is made of Python numbers in the step"
        assert not any(isinstance(part, list) for part in index), "an index is made of Python numbers in the step"
        return result


class HostWaits(TorchDispatchMode):
    """Fails on what makes the host wait for the device that `meta` stands for.

    Tensors on "meta" have no values, so that reading one (item, nonzero, a boolean index, a copy to the host) fails by
    itself. Copies from the host to the device are refused here: constants are made once.
    """

    def __enter__(self):
        self.numbers = MadeFromNumbers()
        self.numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.numbers.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves(args) if torch.is_tensor(value) and value.dim()]
        if torch.is_tensor(result) and result.is_meta and result.dim():
            assert all(value.is_meta for value in tensors), f"{func} copies a tensor from the host"
        return result


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).any()),
        lambda x: x.cpu().numpy(),
        lambda x: x[:, [1, 0]],
        lambda x: x * torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x * torch.ones(2).to(x.device),
        lambda x: x.new_tensor([1.0, 2.0]),
    ],
)
def test_what_makes_the_host_wait_is_noticed(wait):
    with HostWaits(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        wait(torch.ones(2, 2, device="meta"))


def test_a_training_step_never_waits_for_the_device(case):
    """Where there is a GPU, torch itself reports what waits; else the step is taken on the "meta" device."""
    _, kind, config, build = case
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    method = build().to(device).train()
    batches = [make_batch(kind, config, seed=seed).to(device) for seed in range(3)]
    step(method, batches[0])  # makes the constants of this device, once
    if device.type == "meta":
        with HostWaits():
            for batch in batches[1:]:
                step(method, batch)
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            step(method, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_preparing_a_batch_never_waits_for_the_device():
    """All degradations, landmarks, flow and an alignment; the numbers of the degraded images come with the batch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    everything = Augment(blur=0.5, compression=0.5, holes=0.5, hue=0.1)
    batches = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        faces = Faces(
            images=torch.from_numpy(random.integers(0, 256, (4, 3, 32, 32, 3), dtype=np.uint8)),
            identity=torch.arange(4),
            augmentation=torch.from_numpy(augment.sample_params(everything, shape=(4, 3, 2), random=random)),
            columns={
                "landmarks": torch.from_numpy(32 * random.random((4, 3, 136), dtype=np.float32)),
                "flow": torch.from_numpy(random.integers(-127, 128, (4, 3, 2 * 8 * 8)).astype(np.int8)),
            },
            is_aligned=True,
        )
        assert all(0 < len(numbers) < 24 for numbers in find_degraded(faces.augmentation))
        batches.append(faces.to(device))
    prepare(batches[0])  # makes the constants of this device, once
    if device.type == "meta":
        with HostWaits():
            for faces in batches[1:]:
                assert prepare(faces).shape == (4, 3, 2, 3, 24, 24)
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        for faces in batches[1:]:
            prepare(faces)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def prepare(faces):
    """What an Augmenter does, without its autocast, which "meta" does not have."""
    points, steps, drawn = faces.columns["landmarks"], faces.columns["flow"], faces.augmentation
    alignment = augment.fit_alignment(points, stored=32)
    augment.transform_landmarks(points, drawn, stored=32, size=24, alignment=alignment)
    augment.transform_flow(steps, drawn, stored=32, size=24)
    return augment.apply(faces.images, drawn, size=24, alignment=alignment, degraded=faces.degraded)


def have_equal_states(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def torch_file(content):
    file = BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a safetensors file is expected"),
        (b"\x80\x04\x95pickled", "a safetensors file is expected"),
        (b"PK\x03\x04 no archive", "not a file of weights"),
        (torch_file(Harmful()), "only tensors are read"),
        (torch_file({"linear.weight": torch.zeros(2)}), "nor a ResNet"),
        (save({"linear.weight": torch.zeros(2)}), "nor a ResNet"),
        (save({"w": torch.zeros(2)}, {"facscale": export.FORMAT}), "does not fit this version of facscale"),
        (
            save({"w": torch.zeros(2)}, {"facscale": export.FORMAT, "recipe": "{}"}),
            "does not fit this version of facscale",
        ),
    ],
)
def test_other_files_are_refused_and_never_run(data, message, capsys):
    with pytest.raises(SpecError, match=message):
        export.load_export(data, source="there")
    assert "harm" not in capsys.readouterr().out


@pytest.mark.parametrize(("depth", "width"), [(18, 4), (34, 2), (50, 2)])
@pytest.mark.parametrize("pack", [torch_file, save])
def test_a_checkpoint_with_torchvisions_names(depth, width, pack):
    source = ResNet(depth, width=width).eval()
    classifier = {"fc.weight": torch.zeros(1000, source.dim), "fc.bias": torch.zeros(1000)}
    result = export.load_export(pack({**source.state_dict(), **classifier}))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(result.encoder(images), source(images))
    child = export.build_method("supervised", methods.find_method("supervised").Config(), FACTS, pretrained=result)
    rebuilt = export.load_export(export.save_export(child))
    batch = make_random_batch(child.eval_views(child.config), size=32, aus=2)
    torch.testing.assert_close(rebuilt.predict(batch), child.eval().predict(batch))


def test_hyper_parameters_are_checked_with_file_and_line(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("method:\n  name: clp\n  margn: 0.1\n")
    with pytest.raises(SpecError, match=r'job\.yaml:3: unknown key "method\.margn" \(did you mean "margin"'):
        methods.configure(read_spec(path))
    path.write_text("method: {name: tcae}\ninputs: {pretrained: {url: a, sha256: abcdef01}}\n")
    with pytest.raises(SpecError, match=r'job\.yaml:2: tcae takes no input "pretrained"'):
        methods.configure(read_spec(path))


def test_overlapping_roots_are_an_error():
    class Wrong(methods.Method):
        @methods.trains("encoder")
        def first(self, batch):
            return {}

        @methods.trains("encoder", "head")
        def second(self, batch):
            return {}

    with pytest.raises(TypeError, match="the same submodules or disjoint ones"):
        Wrong.roots()


def test_job_is_a_closed_model():
    from facscale.spec import Document, Job

    with pytest.raises(SpecError, match="unknown key"):
        parse(Document({"method": {"name": "clp"}, "metod": {}}, {(): _nowhere()}), Job)


def _nowhere():
    from facscale.spec.errors import SourceLocation

    return SourceLocation("nowhere")


def test_a_method_keeps_the_contract_that_authors_check(case):
    _, kind, config, build = case
    inputs = {name: recipe.build() for name, recipe in build().recipe.inputs.items()}
    check_method(kind, config, facts=FACTS, inputs=inputs)
