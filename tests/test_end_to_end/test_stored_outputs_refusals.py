# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stores that do not belong to a training are refused in one sentence, before its first step."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from test_teacher_outputs.stores import contents, run_with_mounts

from mtkdrl_mm.utils import InputError

from .stored import BLENDED, Distillery

pytestmark = pytest.mark.slow
POOL = """
model['teachers'][0].update(class_map=[0, 1, 2, 3], input_size=16,
    data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True))
"""
# Lines of a config that name the images and their labels.
LISTED = "\n_dataset['ann_file'] = 'train.txt'\n"


class Stored(Distillery):
    """A distillery with a store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        names = sorted(p.relative_to(self.data / 'train') for p in self.data.glob('train/*/*.png'))
        self.listed = {str(name): int(name.parent.name[-1]) for name in names}
        self.root = self.fill(self.config('base', POOL + BLENDED), 'store', '--maps', 'pooled')

    def list_images(self, listed: dict[str, int]) -> None:
        text = ''.join(f'{name} {label}\n' for name, label in listed.items())
        (self.data / 'train.txt').write_text(text)

    def refusal(self, extra: str = '', outputs: object = None, base: str = POOL + BLENDED) -> str:
        """The message of the error with which a training ends before its first step."""
        config = self.config('changed', base + extra)
        options = {'model.teacher_outputs': self.root if outputs is None else outputs}
        work_dir = self.folder / 'refused'
        with pytest.raises(InputError) as error:
            self.runner(config, work_dir.name, **options).train()
        assert not list(work_dir.glob('*.pth'))
        message = str(error.value)
        assert '\n' not in message and message.endswith('.')
        return message.replace(str(self.folder), 'HERE')


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    return Stored(tmp_path_factory.mktemp('refusals'))


@pytest.mark.parametrize(
    'extra',
    [
        '',
        "\nmodel['teachers'][0]['checkpoint'] = '/nowhere/FOLDER/teacher0.pth'",
        "\nmodel['teachers'].reverse()",
        "\nmodel['teachers'].pop(0)",
        LISTED,
    ],
)
def test_what_is_the_same_is_not_refused(stored, extra):
    """Also if a file is gone, in another order, without a teacher, and with images listed."""
    stored.list_images(stored.listed)
    extra = extra.replace('FOLDER', stored.folder.name)
    config = stored.config('same', POOL + BLENDED + extra)
    assert stored.distil(config, 'same', stored.root, epochs=1)['meta']['iter'] == 7


@pytest.mark.parametrize(
    ('change', 'difference'),
    [
        (
            "model['teachers'][0]['class_map'] = [0, 2, 1, 3]",
            'class map (`indices`): [0, 1, 2, 3] there, [0, 2, 1, 3] here',
        ),
        (
            "model['teachers'][0].pop('class_map')",
            "class map: {'indices': [0, 1, 2, 3]} there, None here",
        ),
        (
            "model['teachers'][0]['data_preprocessor']['std'][1] = 50.0",
            'preprocessing (`std`): [60.0, 60.0, 60.0] there, [60.0, 50.0, 60.0] here',
        ),
        (
            "model['teachers'][0]['input_size'] = 20",
            'input size: [16, 16] there, [20, 20] here',
        ),
        (
            "model['teachers'][0]['cfg_options'] = {'model.backbone.norm_cfg.num_groups': 1}",
            'network config (`model.backbone.norm_cfg.num_groups`): 2 there, 1 here',
        ),
        (
            "model['teachers'][0]['checkpoint'] = model['teachers'][1]['checkpoint']",
            r'version of the weights \(sha256\): [0-9a-f]{12} there, [0-9a-f]{12} here',
        ),
    ],
)
def test_another_teacher(stored, change, difference):
    if 'sha256' not in difference:
        difference = re.escape(difference)
    message = stored.refusal('\n' + change)
    assert re.fullmatch(
        rf'"HERE/store/teacher0" was stored for teacher "teacher0" with another {difference}\. '
        'Use the same, or store this teacher again: under another name, or after removing that '
        r'folder\.',
        message,
    ), message


def test_a_teacher_that_is_normalised_as_the_student(stored):
    message = stored.refusal("\ndata_preprocessor['mean'][1] = 110.0")
    assert 'for teacher "teacher1" with another preprocessing (`mean`): [127.0, 127.0' in message


def test_weights_of_another_name_that_are_gone(stored):
    message = stored.refusal("\nmodel['teachers'][0]['checkpoint'] = '/nowhere/other.pth'")
    assert message == (
        f'The outputs of teacher "teacher0" were stored with the weights of "{stored.folder.name}/'
        'teacher0.pth", but the config names "nowhere/other.pth", which is not on this machine, so '
        'that the contents cannot be compared. Name the same file, or store this teacher again.'
    )


@pytest.mark.parametrize(
    ('change', 'hint'),
    [
        ("[0]['name'] = 'teacherO'", 'Did you mean "teacher1" or "teacher0"? '),
        (".append(dict(model['teachers'][1], name='third'))", ''),
    ],
)
def test_a_teacher_that_is_not_stored(stored, change, hint):
    name = 'teacherO' if hint else 'third'
    assert stored.refusal(f"\nmodel['teachers']{change}") == (
        f'The store "HERE/store" holds no outputs of teacher "{name}". {hint}'
        'Known: "teacher0", "teacher1".'
    )


def test_another_image_encoder(tmp_path):
    """Its text embeddings count as its weights do."""
    d = Distillery(tmp_path)
    config = d.mixed_pool()
    root = d.fill(config, 'store', '--maps', 'pooled', views=1)

    def refused(**zero_shot):
        with pytest.raises(InputError) as error:
            options = {f'model.teachers.2.zero_shot.{k}': v for k, v in zero_shot.items()}
            d.runner(config, 'refused', **options, **{'model.teacher_outputs': root}).train()
        return str(error.value)

    changed = str(tmp_path / 'changed.pt')
    torch.save(torch.randn(4, 8), changed)
    clip = 'for teacher "clip" with another class map'
    assert f'{clip} (`logit_scale`): 10.0 there, 11.0 here.' in refused(logit_scale=11.0)
    name = tmp_path.name
    found = f'(`text_embeddings`): {name}/texts.pt there, {name}/changed.pt here.'
    assert f'{clip} {found}' in refused(text_embeddings=changed)
    assert (
        f'were stored with the text embeddings of "{name}/texts.pt", but the config names '
        '"gone.pt", which is not on this machine'
    ) in refused(text_embeddings='gone.pt')


def test_other_images_or_labels(stored):
    def message(what: str) -> str:
        return f'"HERE/store/teacher0" was stored for teacher "teacher0" with another {what}'

    files = message('data set (files, labels or order): ')
    folder = stored.data / 'train' / 'class_0'
    added = folder / '70.png'
    shutil.copy(folder / '7.png', added)
    assert stored.refusal().startswith(message('number of samples: 31 there, 32 here. Use'))
    (folder / '7.png').rename(stored.folder / 'aside.png')  # now one file is named differently
    assert stored.refusal().startswith(files)
    (stored.folder / 'aside.png').rename(folder / '7.png')
    added.unlink()

    relabelled = dict(stored.listed)
    relabelled['class_0/7.png'] = 3
    reordered = dict(reversed(stored.listed.items()))
    for listed in (relabelled, reordered):
        stored.list_images(listed)
        assert stored.refusal(LISTED).startswith(files)


@pytest.mark.parametrize(
    ('change', 'outputs', 'difference'),
    [
        ('', dict(views=3), 'number of views: 2 there, 3 here'),
        ('', dict(seed=1), 'augmentation seed: 0 there, 1 here'),
        ("_dataset['pipeline'][1]['padding'] = 2", {}, 'data pipeline: '),
        ("data_preprocessor['pad_size_divisor'] = 32", {}, 'data pipeline: '),
        (
            "model['student']['cfg_options']['model.train_cfg']['augments'].pop()",
            {},
            "setting of blends (`augments`): [{'type': 'Mixup', 'alpha': 0.4}, {'type': 'CutMix', "
            "'alp... there, [{'type': 'Mixup', 'alpha': 0.4}] here",
        ),
        ("model['student'].pop('cfg_options')", {}, 'setting of blends: {'),
    ],
)
def test_other_views(stored, change, outputs, difference):
    message = stored.refusal('\n' + change, dict(outputs, root=stored.root))
    start = f'"HERE/store/teacher0" was stored for teacher "teacher0" with another {difference}'
    assert message.startswith(start)
    assert message.endswith('. Use the same, or another folder for the store.')


def test_more_views_than_there_are(stored):
    outputs = dict(root=stored.root, first_views=3)
    assert stored.refusal(outputs=outputs) == (
        '`teacher_outputs.first_views` is 3, but "HERE/store" holds 2 views.'
    )


@pytest.mark.parametrize(
    ('outputs', 'folder', 'difference'),
    [
        (dict(views=3), 'inputs" was stored for the inputs', 'number of views: 2 there, 3 here'),
        (
            dict(maps='full'),
            'teacher0" was stored for teacher "teacher0"',
            "choice of tensors (`pooled_map`): [32, 1, 1, 'float16'] there, none here",
        ),
        (
            dict(logits='float32'),
            'teacher0" was stored for teacher "teacher0"',
            "choice of tensors (`logits`): [4, 'float16'] there, [4, 'float32'] here",
        ),
    ],
)
def test_filling_a_store_with_other_settings(stored, outputs, folder, difference):
    before = contents(stored.root)
    outputs = {**dict(root=stored.root, views=2, write=True, maps='pooled'), **outputs}
    message = stored.refusal(outputs=outputs)
    assert message.startswith(f'"HERE/store/{folder} with another {difference}. Use the same, or')
    assert contents(stored.root) == before


def _remove(path: str):
    return lambda root: (root / path).unlink()


def _version(root: Path) -> None:
    path = root / 'teacher1' / 'manifest.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'format_version': 2}))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (shutil.rmtree, 'The store of teacher outputs "HERE/copy" does not exist. Set the folder'),
        (
            lambda root: shutil.rmtree(root / 'inputs'),
            '"HERE/copy/inputs/manifest.json" does not exist: "HERE/copy/inputs" holds no stored',
        ),
        (
            _remove('teacher1/manifest.json'),
            '"HERE/copy/teacher1/manifest.json" does not exist: "HERE/copy/teacher1" holds no',
        ),
        (
            _remove('teacher1/view_001/part_0000.safetensors'),
            '"HERE/copy/teacher1/view_001/part_0000.safetensors" does not exist: this view is not '
            'complete. Run the tool that writes the store again',
        ),
        (
            _remove('inputs/view_000/part_0000.safetensors'),
            '"HERE/copy/inputs/view_000/part_0000.safetensors" does not exist: this view is not',
        ),
        (
            _version,
            '"HERE/copy/teacher1/manifest.json" has version 2 of the format, and this version of '
            'mtkdrl_mm reads version 1. Use the version of mtkdrl_mm that wrote it, or',
        ),
        (
            lambda root: os.truncate(root / 'teacher1/view_000/part_0000.safetensors', 900),
            '"HERE/copy/teacher1/view_000/part_0000.safetensors" is damaged: it is truncated, '
            'with 900 instead of ',
        ),
    ],
)
def test_an_incomplete_or_damaged_store(stored, damage, message):
    root = stored.folder / 'copy'
    shutil.copytree(stored.root, root)
    damage(root)
    assert stored.refusal(outputs=str(root)).startswith(message)
    shutil.rmtree(root, ignore_errors=True)


def test_missing_views_that_are_not_used(stored):
    root = stored.folder / 'copy'
    shutil.copytree(stored.root, root)
    shutil.rmtree(root / 'teacher0' / 'view_001')
    config = stored.config('first', POOL + BLENDED)
    stored.distil(config, 'first', dict(root=str(root), first_views=1), epochs=2)
    shutil.rmtree(root)


def test_a_read_only_folder_can_be_read(stored):
    """And is left as it is."""
    config = stored.config('read_only', POOL + BLENDED)
    before = contents(stored.root)

    def test():
        with pytest.raises(OSError, match='Read-only'):
            Path(stored.root, 'x').write_text('')
        filling = dict(root=stored.root, views=2, write=True, maps='pooled')
        for outputs in (stored.root, filling):  # and no view is missing
            stored.distil(config, 'read_only', outputs, epochs=1)
        filling['root'] = f'{stored.root}/new'
        message = stored.refusal(outputs=filling)
        assert message.startswith('"HERE/store/new/inputs" cannot be written: Read-only file sys')

    run_with_mounts(
        [f'mount --bind {stored.root} {stored.root}', f'mount -o remount,ro,bind {stored.root}'],
        test,
    )
    assert contents(stored.root) == before


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('blended', [False, True])
def test_changed_pixels(tmp_path, workers, blended):
    """Also those of an image that is blended into another."""
    d = Distillery(tmp_path)
    config = d.config(extra=BLENDED if blended else '')
    root = d.fill(config, 'store', '--maps', 'pooled', views=1)
    changed = d.data / 'train' / 'class_2' / '3.png'
    shutil.copy(d.data / 'train' / 'class_2' / '4.png', changed)
    options = [f'model.teacher_outputs={root}', f'train_dataloader.num_workers={workers}']
    done = d.train(config, '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    image = r'("[^"]*", blended with )?"[^"]*"(, blended with "[^"]*")?,?' if blended else '".*"'
    assert re.fullmatch(
        rf'Error: The pixels of view 0 of image {image} are not those that the teachers saw when '
        rf'"{root}/inputs" was stored \(crc32 [0-9a-f]{{8}}, stored [0-9a-f]{{8}}\)\. An image '
        'file, the pipeline, or what decodes images has changed: restore it, or store the outputs '
        r'again in another folder\.',
        sentence,
    ), sentence
    assert f'"{changed}"' in sentence
    assert not list(Path(tmp_path, 'run').glob('*.pth'))


def test_through_the_tool(stored):
    config = stored.config(
        'tool', POOL + BLENDED + "\nmodel['teachers'][0]['class_map'] = [3, 2, 1, 0]"
    )
    options = [f'model.teacher_outputs={stored.root}']
    done = stored.train(config, '--work-dir', str(stored.folder / 'x'), '--cfg-options', *options)
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr[-2000:]
    assert done.stderr.strip().splitlines()[-1] == (
        f'Error: "{stored.root}/teacher0" was stored for teacher "teacher0" with another class map '
        '(`indices`): [0, 1, 2, 3] there, [3, 2, 1, 0] here. Use the same, or store this teacher '
        'again: under another name, or after removing that folder.'
    )
