# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The package as users install it: a wheel in an environment of its own, away from the checkout."""

import os
import runpy
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mtkdrl_mm.models import Preprocessing, build_pool

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BUILD = (
    'import sys; from setuptools import build_meta as backend; '
    'print(getattr(backend, sys.argv[1])(sys.argv[2]))'
)


def run(*command, cwd, **environment):
    """Run a command without this checkout on the path; returns its output."""
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**env, 'OMP_NUM_THREADS': '1', 'PIP_CONFIG_FILE': os.devnull, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(kind, source, out):
    """What `python -m build` does in a checkout, and then in the archive of the sources."""
    log = run(sys.executable, '-W', 'ignore', '-c', BUILD, f'build_{kind}', out, cwd=source)
    return out / log.strip().split('\n')[-1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp('dist')
    # A copy: a build leaves folders in its sources.
    listed = run('git', 'ls-files', '-z', '-co', '--exclude-standard', cwd=ROOT).split('\0')
    for name in filter(None, listed):
        if (ROOT / name).is_file() and name.split('/')[0] not in ('docs', 'tests'):
            (out / 'checkout' / name).parent.mkdir(parents=True, exist_ok=True)
            (out / 'checkout' / name).write_bytes((ROOT / name).read_bytes())
    with tarfile.open(build('sdist', out / 'checkout', out)) as archive:
        archive.extractall(out)
    (source,) = out.glob('mtkdrl_mm-*/')
    return build('wheel', source, out)


def test_every_file_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    parts = {'mtkdrl_mm': 'mtkdrl_mm', 'configs': 'mtkdrl_mm/.mim/configs'}
    parts['tools'] = 'mtkdrl_mm/.mim/tools'
    for folder, target in parts.items():
        listed = run('git', 'ls-files', '-co', '--exclude-standard', folder, cwd=ROOT).split()
        wanted = {target + name.removeprefix(folder) for name in listed if (ROOT / name).exists()}
        wanted = {name for name in wanted if not name.startswith('mtkdrl_mm/.mim/tools/dev/')}
        assert len(wanted) > 20 and wanted <= names
    assert {'mtkdrl_mm/py.typed', 'mtkdrl_mm/.mim/model-index.yml'} <= names
    outside = {name.split('/')[0] for name in names} - {'mtkdrl_mm'}
    assert len(outside) == 1 and outside.pop().endswith('.dist-info')


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Python of an environment with the wheel, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp('env')
    venv.create(folder, with_pip=False)
    python = folder / 'bin' / 'python'
    (site,) = folder.glob('lib/python*/site-packages')
    paths = [str(Path(torch.__file__).parents[1]), str(Path(sys.prefix, 'mim'))]
    # Plain entries: the editable installation, which is a .pth file itself, is not seen.
    # What setuptools' own .pth file does: mmengine imports distutils, which Python 3.12 lacks.
    paths.append('import _distutils_hack; _distutils_hack.add_shim()')
    (site / 'shared.pth').write_text('\n'.join(paths))
    flags = ['--no-deps', '--no-index', '--ignore-installed', '--disable-pip-version-check', '-q']
    run(sys.executable, '-m', 'pip', '--python', python, 'install', *flags, wheel, cwd=folder)
    return python


def test_installation_has_types_and_is_not_the_checkout(installed, tmp_path):
    code = 'import mtkdrl_mm, sys; print(mtkdrl_mm.__file__, *sys.path)'
    paths = run(installed, '-W', 'ignore', '-c', code, cwd=tmp_path).split()
    assert paths[0].startswith(str(installed.parents[1])) and str(ROOT) not in paths
    # Without its marker, mypy reports that the package has no types.
    (tmp_path / 'user.py').write_text('from mtkdrl_mm.utils import check_number as check_number\n')
    flags = ['--follow-imports=skip', '--python-executable', installed, '--cache-dir', tmp_path]
    assert 'Success' in run(sys.executable, '-m', 'mypy', *flags, 'user.py', cwd=tmp_path)


@pytest.mark.skipif(not Path(sys.prefix, 'mim').is_dir(), reason='mim is not there: make env')
@pytest.mark.skipif(find_spec('sklearn') is None, reason='the digits are part of scikit-learn')
def test_mim_trains_and_mmpretrain_reads_the_student(installed, tmp_path):
    tool = runpy.run_path(str(ROOT / 'tools/dataset_converters/digits.py'))
    tool['write_digits'](str(tmp_path / 'data/digits'))
    # Teachers with random weights.
    cfg = Config.fromfile(ROOT / 'configs/demo/student_mtkdrl.py')
    options = []
    for index, teacher in enumerate(cfg.model.teachers):
        pool = build_pool([teacher], Preprocessing(), num_classes=10)
        path = tmp_path / f'{index}.pth'
        torch.save(pool[0].network.state_dict(), path)
        options.append(f'model.teachers.{index}.checkpoint={path}')
    log = run(
        *(installed, '-W', 'ignore', '-m', 'mim', 'train', 'mtkdrl_mm'),
        *('demo_student_mtkdrl.py', '--work-dir', 'run', '--cfg-options'),
        *('train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=64'),
        *('val_dataloader.dataset.indices=64', 'model.teacher_inference=eager', *options),
        cwd=tmp_path,
    )
    assert 'Training finished successfully' in log and 'accuracy/top1' in log
    assert 'site-packages/mtkdrl_mm/.mim/tools/train.py' in log
    (tools,) = installed.parents[1].glob('lib/python*/site-packages/mtkdrl_mm/.mim/tools')
    export = tools / 'model_converters/export_student.py'
    run(installed, '-W', 'ignore', export, 'run/epoch_1.pth', 'student.pth', cwd=tmp_path)
    code = (
        'import glob, torch\nfrom mmpretrain import get_model\n'
        'model = get_model("student.py", pretrained=glob.glob("student-*.pth")[0])\n'
        'print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))\n'
        # A user's config starts from one in the package.
        'import mtkdrl_mm\nfrom mmengine.config import Config\n'
        'print(Config.fromfile("mine.py").model.weighting.type)\n'
    )
    (tmp_path / 'mine.py').write_text("_base_ = 'mtkdrl_mm::demo/student_mtkdrl.py'\n")
    log = run(installed, '-W', 'ignore', '-c', code, cwd=tmp_path)
    assert log.strip().split('\n')[-2:] == ['(1, 10)', 'MTKDRL']
