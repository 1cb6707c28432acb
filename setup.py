"""Packaging of mtkdrl_mm; see requirements/ for what each extra holds."""

import ast
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mtkdrl_mm'


def read_version() -> str:
    """The version, read without importing the package: its imports are not there at build time."""
    tree = ast.parse((ROOT / PACKAGE / 'version.py').read_text(encoding='utf-8'))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__version__':
            return ast.literal_eval(node.value)
    raise RuntimeError('mtkdrl_mm/version.py sets no __version__')


def requirements(name: str) -> list:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    stripped = (line.split('#')[0].strip() for line in lines)
    return [line for line in stripped if line]


def long_description() -> str:
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


class BuildWithMim(build_py):
    """Also puts configs, tools and the model index where mim and mmengine look for them.

    `mim train mtkdrl_mm ...` reads `mtkdrl_mm/.mim/`. An editable
    installation gets links, so that an edited config needs no new installation.

    mim finds a config by the name of its file alone, but the folders of several
    methods have files of the same name. `.mim/by_model/` therefore has one config
    per model of the model index, named like the model.
    """

    PARTS = ('configs', 'tools', 'model-index.yml')

    def run(self) -> None:
        super().run()
        base = ROOT if self.editable_mode else Path(self.build_lib)
        target = base / PACKAGE / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for part in self.PARTS:
            source = ROOT / part
            if not source.exists():
                continue
            if self.editable_mode:
                (target / part).symlink_to(Path('..', '..', part))
            elif source.is_dir():
                junk = shutil.ignore_patterns('__pycache__', '*.pyc', 'dev')
                shutil.copytree(source, target / part, ignore=junk)
            else:
                shutil.copy2(source, target / part)
        (target / 'by_model').mkdir()
        for name, config in models_of_index().items():
            text = f'# The same as `{config}`.\n_base_ = {str(Path("..", config))!r}\n'
            (target / 'by_model' / f'{name}.py').write_text(text, encoding='utf-8')


def models_of_index() -> dict:
    """The names of the models in the metafiles, and their configs.

    The files are read without a parser of YAML, which need not be there at build time.
    """
    models = {}
    for file in sorted(ROOT.glob('configs/*/metafile.yml')):
        name = None
        for line in file.read_text(encoding='utf-8').splitlines():
            key, _, value = line.removeprefix('  - ').strip().partition(': ')
            if line.startswith('  - Name: '):
                name = value
            elif key == 'Config' and name is not None:
                models[name] = value
    return models


EXTRAS = {name: requirements(name) for name in ('optional', 'tests')}
EXTRAS['mim'] = requirements('mminstall')
EXTRAS['all'] = EXTRAS['optional'] + EXTRAS['tests']

setup(
    name=PACKAGE,
    version=read_version(),
    description='Multi-teacher knowledge distillation with reinforcement learning for OpenMMLab',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    author='mtkdrl_mm contributors',
    license='Apache License 2.0',
    keywords='computer vision, knowledge distillation, reinforcement learning, openmmlab',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed'], f'{PACKAGE}.report': ['templates/*']},
    python_requires='>=3.10',
    # torch, mmcv and mmengine are left out on purpose: which build of them fits depends on the
    # machine, and pip would replace a working one, or install OpenMMLab's over a maintained fork.
    # mtkdrl_mm/openmmlab.py checks what is there.
    install_requires=requirements('runtime'),
    extras_require=EXTRAS,
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
