# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The principal components on which stored embeddings and maps are projected."""

from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from mtkdrl_mm.teacher_outputs import (
    BasisFit,
    TeacherOutputsSettings,
    TensorSpec,
    basis_key,
    create_basis,
    has_basis,
    load_basis,
    name_basis,
    stored_form,
    teacher_folder,
)
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import UnevenWork

from .teacher_runner import TeacherRunner

# Images on which principal components are fitted.
_BASIS_IMAGES = 2048


def fit_bases(
    runner: TeacherRunner,
    specs: Mapping[str, Sequence[TensorSpec]],
    settings: TeacherOutputsSettings,
) -> dict[str, tuple[dict[str, np.ndarray], str]]:
    """Fit the bases that a store lacks on the main process, and read them on all.

    Args:
        runner (TeacherRunner): The teachers and the data.
        specs (Mapping[str, Sequence[TensorSpec]]): What is stored of each teacher.
        settings (TeacherOutputsSettings): With ``root``, and the numbers of
            components.

    Returns:
        dict[str, tuple[dict[str, np.ndarray], str]]: Arrays and digest of each
        teacher that needs a basis.

    Raises:
        InputError: If a stored basis has another number of components, or cannot
            be read or written.
    """
    assert settings.root is not None
    root = settings.root
    wanted = {name: _projected(tensors, settings) for name, tensors in specs.items()}
    wanted = {name: sizes for name, sizes in wanted.items() if sizes}
    lacking = [name for name in wanted if not has_basis(teacher_folder(root, name))]
    bases = {}
    work = UnevenWork()
    if is_main_process() and lacking:
        fits = _fit(runner, {name: wanted[name] for name in lacking}, work)
        for name, of_kinds in fits.items():
            arrays: dict[str, np.ndarray] = {}
            for kind, fit in of_kinds.items():
                arrays.update(name_basis(kind, fit.basis(wanted[name][kind])))
            bases[name] = create_basis(teacher_folder(root, name), arrays)
            shares = (
                f'{wanted[name][kind]} components of the {kind} hold '
                f'{100 * float(bases[name][0][f"{basis_key(kind)}explained"]):.1f} %'
                for kind in of_kinds
            )
            print_log(f'{name}: {", ".join(shares)} of the variance.', 'current')
    work.wait()
    for name, sizes in wanted.items():
        folder = teacher_folder(root, name)
        if name not in bases:
            bases[name] = load_basis(folder)
        for kind, size in sizes.items():
            stored = len(bases[name][0].get(f'{basis_key(kind)}components', ()))
            if stored != size:
                raise InputError(
                    f'"{folder}" holds a basis of {stored} components for the {kind}, but they '
                    f'are to be projected onto {size}. Set that number (for none, '
                    f'`{kind}="full"`), or remove the folder and store this teacher again.'
                )
    return bases


def _projected(tensors: Sequence[TensorSpec], settings: TeacherOutputsSettings) -> dict[str, int]:
    """What is projected of a teacher, 'embeddings' or 'maps', and onto how many components."""
    form = stored_form(tensors)
    sizes = dict(embeddings=settings.embedding_channels, maps=settings.map_channels)
    return {kind: size for kind, size in sizes.items() if form[kind] == 'projected'}


def _fit(
    runner: TeacherRunner, wanted: dict[str, dict[str, int]], work: UnevenWork
) -> dict[str, dict[str, BasisFit]]:
    """Run teachers on some images for the components of their embeddings and maps."""
    total = len(runner.dataset)
    generator = np.random.default_rng(runner.seed)
    chosen = np.sort(generator.permutation(total)[:_BASIS_IMAGES]).tolist()
    print_log(
        f'Fitting principal components on {len(chosen)} images: {", ".join(wanted)}.',
        'current',
    )
    fits = {name: {kind: BasisFit() for kind in kinds} for name, kinds in wanted.items()}
    for batch in runner.compute(((sample, 0) for sample in chosen), list(wanted)):
        for name, output in batch.outputs.items():
            features = dict(embeddings=output.embedding, maps=output.feature_map)
            for kind, fit in fits[name].items():
                feature = features[kind]
                assert feature is not None
                fit.update(feature)
        work.go_on()
    return fits
