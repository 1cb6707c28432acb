# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Every split is read by the class names of the training data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

from mtkdrl_mm.utils import InputError, adapt_config, data_checks
from mtkdrl_mm.utils.data_settings import loader_datasets
from mtkdrl_mm.utils.launch import check_data

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def data_config(root, num_classes=3, kind='ImageNet', **dataset):
    dataset = dict(type=kind, data_root=str(root), **{'split': 'train', **dataset})
    return Config(
        dict(
            model=dict(num_classes=num_classes),
            train_dataloader=dict(dataset=dataset),
            val_evaluator=dict(type='Accuracy', topk=(1, 5)),
        )
    )


@pytest.fixture
def folders(tmp_path):
    """A folder per split with a folder per class in it."""
    for name in ('dog', 'cat', 'emu'):
        (tmp_path / 'train' / name).mkdir(parents=True)
    (tmp_path / 'train' / 'notes.txt').write_text('no class')
    return tmp_path


def test_class_folders_become_the_classes(folders):
    cfg = data_config(folders)
    check_data(cfg, ('train_dataloader',))
    assert cfg.train_dataloader.dataset.metainfo.classes == ('cat', 'dog', 'emu')


def test_classes_that_are_given_stay(folders):
    cfg = data_config(folders, metainfo=dict(classes=('a', 'b', 'c')))
    check_data(cfg, ('train_dataloader',))
    assert cfg.train_dataloader.dataset.metainfo.classes == ('a', 'b', 'c')


@pytest.mark.parametrize('wrapped', [dict(type='RepeatDataset', times=2), 'concatenated'])
def test_wrapped_data_sets_are_looked_into(folders, wrapped):
    cfg = data_config(folders)
    inner = cfg.train_dataloader.dataset
    if wrapped == 'concatenated':
        cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    else:
        cfg.train_dataloader.dataset = dict(**wrapped, dataset=inner)
    check_data(cfg, ('train_dataloader',))
    outer = cfg.train_dataloader.dataset
    found = outer.datasets[0] if wrapped == 'concatenated' else outer.dataset
    assert found.metainfo.classes == ('cat', 'dog', 'emu')


def test_classes_of_imagenet_itself_and_of_annotated_data_are_left_alone(folders, tmp_path):
    for index in range(1000):
        (tmp_path / 'full' / 'train' / f'n{index:08d}').mkdir(parents=True)
    (folders / 'list.txt').write_text('cat/1.jpg 0\n')
    for cfg in (
        data_config(tmp_path / 'full'),
        data_config(folders, ann_file='list.txt'),
        data_config(folders, kind='CIFAR10'),
    ):
        check_data(cfg, ('train_dataloader',))
        assert 'metainfo' not in cfg.train_dataloader.dataset


def test_missing_data(folders):
    with pytest.raises(InputError) as error:
        check_data(data_config(folders / 'nowhere'), ('train_dataloader',))
    message = str(error.value)
    assert f'The data folder "{folders}/nowhere" (train_dataloader.dataset.data_root)' in message
    assert message.endswith('Put the data there, or set its folder: --cfg-options data_root=FOLDER')
    # Which would also be the folder of loaders that have another one.
    cfg = data_config(folders / 'nowhere')
    cfg.val_dataloader = dict(dataset=dict(type='ImageNet', data_root=str(folders)))
    with pytest.raises(InputError, match=r'--cfg-options train_dataloader\.dataset\.data_root='):
        check_data(cfg, ('train_dataloader',))
    with pytest.raises(InputError) as error:
        check_data(data_config(folders, split='val'), ('train_dataloader',))
    assert f'"{folders}/val" (train_dataloader.dataset) does not exist' in str(error.value)
    assert "contains ['train']" in str(error.value)
    with pytest.raises(InputError) as error:
        check_data(data_config(folders, ann_file='meta/train.txt'), ('train_dataloader',))
    assert f'annotation file "{folders}/meta/train.txt"' in str(error.value)


@pytest.mark.parametrize(
    'options, found', [({}, True), (dict(download=True), True), (dict(download=False), False)]
)
def test_data_that_downloads_itself_may_be_missing(tmp_path, options, found):
    dataset = dict(type='CIFAR100', data_root=str(tmp_path / 'none'), **options)
    cfg = Config(
        dict(default_scope='mmpretrain', model=dict(), train_dataloader=dict(dataset=dataset))
    )
    if found:
        check_data(cfg, ('train_dataloader',))
    else:
        with pytest.raises(InputError, match=r'none" .* does not exist'):
            check_data(cfg, ('train_dataloader',))


def test_data_that_is_not_used_or_not_local_is_not_looked_for(folders):
    check_data(data_config(folders / 'nowhere'), ('val_dataloader',))
    check_data(data_config('s3://bucket/imagenet'), ('train_dataloader',))


def make_split(root, split, names, images=2):
    for name in names:
        (root / split / name).mkdir(parents=True)
        for index in range(images):
            (root / split / name / f'{index}.png').touch()


def wrap(dataset, kind):
    """A config of a wrapper around a data set's config."""
    if kind == 'RepeatDataset':
        return dict(type=kind, times=2, dataset=dataset)
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=[dataset, dict(dataset)])
    if kind == 'ClassBalancedDataset':
        return dict(type=kind, oversample_thr=0.1, dataset=dataset)
    if kind == 'KFoldDataset':
        return dict(type=kind, fold=0, num_splits=2, dataset=dataset)
    return dataset


def splits(root, kind='ImageNet', wrapper=None, classes=None, **val):
    meta = {} if classes is None else dict(metainfo=dict(classes=classes))

    def loader(split, **more):
        where = dict(split=split) if kind == 'ImageNet' else dict(data_prefix=split)
        dataset = dict(type=kind, data_root=str(root), **{**where, **more})
        return dict(dataset=wrap(dataset, wrapper))

    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(),
            train_dataloader=loader('train', **meta),
            val_dataloader=loader('val', **val),
            test_dataloader=loader('val', **val),
        )
    )


def labels(cfg, name):
    """Label of every class folder, as the built data set has it."""
    dataset = DATASETS.build(cfg[name].dataset)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return {info['img_path'].split('/')[-2]: info['gt_label'] for info in infos}, dataset


WRAPPERS = (None, 'RepeatDataset', 'ConcatDataset', 'ClassBalancedDataset')


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('kind', ['ImageNet', 'CustomDataset'])
def test_a_split_that_lacks_a_class_keeps_the_numbering(tmp_path, kind, wrapper):
    make_split(tmp_path, 'train', ['cat', 'dog', 'fox'])
    make_split(tmp_path, 'val', ['cat', 'fox'])
    cfg = splits(tmp_path, kind, wrapper)
    check_data(cfg, LOADERS)
    assert labels(cfg, 'train_dataloader')[0] == {'cat': 0, 'dog': 1, 'fox': 2}
    for name in LOADERS[1:]:
        found, dataset = labels(cfg, name)
        assert found == {'cat': 0, 'fox': 2}
        assert dataset.metainfo['classes'] == ('cat', 'dog', 'fox')


def test_folds_of_a_split_keep_the_numbering(tmp_path):
    make_split(tmp_path, 'train', ['cat', 'dog', 'fox'])
    make_split(tmp_path, 'val', ['cat', 'fox'])
    cfg = splits(tmp_path, wrapper='KFoldDataset')
    check_data(cfg, LOADERS)
    # Its fold of the validation set: without the first two images, those of cats.
    assert labels(cfg, 'val_dataloader')[0] == {'fox': 2}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_a_split_with_an_unknown_class_is_refused(tmp_path, wrapper):
    make_split(tmp_path, 'train', ['cat', 'dog', 'fox'])
    make_split(tmp_path, 'val', ['Fox', 'cat', 'dog'])
    # Where tools/test.py runs alone too.
    for loaders in (LOADERS, LOADERS[2:]):
        with pytest.raises(InputError) as error:
            check_data(splits(tmp_path, wrapper=wrapper), loaders)
        assert (
            f'"{tmp_path}/val" holds the folders Fox, which are none of the 3 classes of the '
            'training data: cat, dog, fox. Rename them'
        ) in str(error.value)


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_a_list_of_names_sorts_the_labels(tmp_path, wrapper):
    make_split(tmp_path, 'train', ['cat', 'dog', 'fox'])
    make_split(tmp_path, 'val', ['cat', 'dog', 'fox'])
    cfg = splits(tmp_path, 'CustomDataset', wrapper, classes=['fox', 'cat', 'dog'])
    check_data(cfg, LOADERS)
    for name in LOADERS:
        assert labels(cfg, name)[0] == {'fox': 0, 'cat': 1, 'dog': 2}


def test_names_of_validation_follow_those_of_training(tmp_path):
    make_split(tmp_path, 'train', ['cat', 'dog', 'fox'])
    make_split(tmp_path, 'val', ['cat', 'dog', 'fox'])
    cfg = splits(tmp_path, 'CustomDataset', metainfo=dict(classes=['fox', 'dog', 'cat']))
    check_data(cfg, LOADERS)
    assert labels(cfg, 'val_dataloader')[0] == {'cat': 0, 'dog': 1, 'fox': 2}
    cfg = splits(tmp_path, 'CustomDataset', metainfo=dict(classes=['fox', 'dog', 'cow']))
    with pytest.raises(InputError, match=r'metainfo\.classes names cow, but the training data'):
        check_data(cfg, LOADERS)


def test_other_names_than_the_folders(tmp_path):
    """Folders of WordNet ids with names in words: the numbering is that of the folders."""
    make_split(tmp_path, 'train', ['n01', 'n02', 'n03'])
    make_split(tmp_path, 'val', ['n01', 'n03'])
    cfg = splits(tmp_path, classes=['tench', 'goldfish', 'shark'])
    check_data(cfg, LOADERS)
    found, dataset = labels(cfg, 'val_dataloader')
    assert found == {'n01': 0, 'n03': 2}
    assert dataset.metainfo['classes'] == ('tench', 'goldfish', 'shark')


@pytest.mark.parametrize('classes', [None, ['tench', 'goldfish', 'shark']])
def test_folders_of_other_names_than_those_of_training(tmp_path, classes):
    """Nothing tells which of them is which class; their order does not."""
    make_split(tmp_path, 'train', ['0', '1', '2'])
    make_split(tmp_path, 'val', ['one', 'two', 'zero'])
    for loaders in (LOADERS, LOADERS[2:]):
        with pytest.raises(InputError, match='holds the folders one, two, zero, which are none'):
            check_data(splits(tmp_path, classes=classes), loaders)


def test_folders_are_in_the_order_of_other_names_where_no_others_are_known(tmp_path):
    make_split(tmp_path, 'val', ['n01', 'n02', 'n03'])
    cfg = splits(tmp_path)
    check_data(cfg, LOADERS[2:], trained_classes=['tench', 'goldfish', 'shark'])
    assert labels(cfg, 'test_dataloader')[0] == {'n01': 0, 'n02': 1, 'n03': 2}


@pytest.mark.parametrize('kind', ['ImageNet', 'CustomDataset'])
@pytest.mark.parametrize('prefix', ['', 'set/'])
def test_a_list_for_training_and_folders_for_validation(tmp_path, kind, prefix):
    """The numbers of the list are called as the folders of its images, in whatever order."""
    make_split(tmp_path, f'train/{prefix}', ['cat', 'dog', 'fox'])
    make_split(tmp_path, 'val', ['cat', 'dog', 'fox'])
    (tmp_path / 'meta').mkdir()
    numbers = dict(fox=0, dog=1, cat=2)
    lines = [f'{prefix}{name}/{i}.png {label}' for name, label in numbers.items() for i in (0, 1)]
    (tmp_path / 'meta' / 'train.txt').write_text('\n'.join(lines))
    for loaders in (LOADERS, LOADERS[2:]):
        cfg = splits(tmp_path, kind)
        cfg.train_dataloader.dataset.ann_file = 'meta/train.txt'
        check_data(cfg, loaders)
        for name in loaders:
            found, dataset = labels(cfg, name)
            assert found == numbers and dataset.metainfo['classes'] == ('fox', 'dog', 'cat')


@pytest.mark.parametrize(
    'lines', ['1.png 0\n2.png 1', 'a/1.png 0\na/2.png 1\nb/3.png 1', 'a/1.png 0\nb/2.png 2']
)
def test_folders_whose_labels_nothing_tells(tmp_path, lines):
    make_split(tmp_path, 'val', ['cat', 'dog'])
    (tmp_path / 'train').mkdir()
    (tmp_path / 'list.txt').write_text(lines)
    message = (
        f'val_dataloader.dataset takes labels from the folders in "{tmp_path}/val", and the '
        f'training data from "{tmp_path}/list.txt", which does not tell what its numbers are '
        'called. Set the names of the folders in the order of these numbers: --cfg-options '
        'metainfo.classes=NAME,NAME'
    )
    for kind in ('ImageNet', 'CustomDataset'):
        cfg = splits(tmp_path, kind)
        cfg.train_dataloader.dataset.ann_file = 'list.txt'
        with pytest.raises(InputError) as error:
            check_data(cfg, LOADERS)
        assert str(error.value) == message
        # As the message says; and a checkpoint knows them.
        cfg.train_dataloader.dataset.metainfo = dict(classes=['dog', 'cat'])
        check_data(cfg, LOADERS)
        assert labels(cfg, 'val_dataloader')[0] == dict(dog=0, cat=1)


def listed(root, numbers, val, kind='ImageNet', **train):
    """Config of a training list with these labels of folders, and of folders for validation."""
    make_split(root, 'train', numbers)
    make_split(root, 'val', val)
    lines = [f'{name}/{i}.png {label}' for name, label in numbers.items() for i in (0, 1)]
    (root / 'list.txt').write_text('\n'.join(lines))
    cfg = splits(root, kind, **train)
    cfg.train_dataloader.dataset.ann_file = 'list.txt'
    return cfg


@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
@pytest.mark.parametrize('kind', ['ImageNet', 'CustomDataset'])
def test_a_list_with_other_names_than_its_folders(tmp_path, kind, wrapper):
    """Sorted, folder "10" would be class 2, and the list says 10."""
    numbers = {str(label): label for label in range(12)}
    names = [f'name{label}' for label in range(12)]
    cfg = listed(tmp_path, numbers, list(numbers)[2:], kind, classes=names)
    for name in LOADERS[1:]:
        cfg[name].dataset = wrap(cfg[name].dataset, wrapper)
    # Where tools/test.py runs alone, the checkpoint has the names.
    for loaders, trained in ((LOADERS, None), (LOADERS[2:], names)):
        done = Config(cfg.to_dict())
        check_data(done, loaders, trained)
        for name in loaders:
            found, dataset = labels(done, name)
            assert found == {k: v for k, v in numbers.items() if v > 1 or name == LOADERS[0]}
            assert dataset.metainfo['classes'] == tuple(names)


def test_folders_called_as_the_classes_of_a_list_with_other_folders(tmp_path):
    numbers = dict(n02=0, n01=1)
    cfg = listed(tmp_path, numbers, ['shark', 'tench'], classes=['tench', 'shark'])
    check_data(cfg, LOADERS)
    assert labels(cfg, 'train_dataloader')[0] == numbers
    assert labels(cfg, 'val_dataloader')[0] == dict(tench=0, shark=1)
    (tmp_path / 'val' / 'shark').rename(tmp_path / 'val' / 'Shark')
    cfg = listed(tmp_path / 'other', numbers, ['Shark', 'tench'], classes=['tench', 'shark'])
    with pytest.raises(InputError, match='holds the folders Shark, which are none of the 2 clas'):
        check_data(cfg, LOADERS)


def test_a_list_that_numbers_the_folders_unlike_the_classes(tmp_path, monkeypatch):
    """Labels may be wrong on purpose, as those of the demo's teachers: the names decide."""
    lines = []
    monkeypatch.setattr(adapt_config, 'print_log', lambda text, *a, **k: lines.append(text))
    cfg = listed(tmp_path, dict(cat=0, dog=1), ['cat', 'dog'], classes=['dog', 'cat'])
    check_data(cfg, LOADERS)
    assert lines == [
        f'The images in the folder "cat" have the label 0 in "{tmp_path}/list.txt", but "cat" is '
        'class 1 of dog, cat (train_dataloader.dataset.metainfo.classes). If that is not meant, '
        'set the names in the order of the labels in the list: --cfg-options '
        'metainfo.classes=NAME,NAME'
    ]
    assert labels(cfg, 'train_dataloader')[0] == dict(cat=0, dog=1)
    assert labels(cfg, 'val_dataloader')[0] == dict(dog=0, cat=1)
    # A checkpoint was trained on other data, and knows its names.
    check_data(cfg, LOADERS[2:], ['dog', 'cat'])
    assert labels(cfg, 'test_dataloader')[0] == dict(dog=0, cat=1) and len(lines) == 1


def test_a_list_that_numbers_the_folders_unlike_another_part_of_the_training_data(tmp_path):
    make_split(tmp_path, 'more', ['n01', 'n02'])
    for numbers in (dict(n01=0, n02=1), dict(n01=1, n02=0)):
        root = tmp_path / str(numbers['n01'])
        cfg = listed(root, numbers, ['n02'], 'CustomDataset', classes=['tench', 'shark'])
        first = cfg.train_dataloader.dataset
        more = dict(type='CustomDataset', data_root=str(tmp_path), data_prefix='more')
        cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, more])
        if numbers['n01']:
            with pytest.raises(
                InputError, match=r'folder "n02" have the label 0 in .*, but "n02" is'
            ):
                check_data(cfg, LOADERS)
        else:
            check_data(cfg, LOADERS)
            assert labels(cfg, 'val_dataloader')[0] == dict(n02=1)


def test_labels_by_name_in_a_list(tmp_path):
    cfg = listed(tmp_path, dict(n02='tench', n01='shark'), ['n01'], classes=['tench', 'shark'])
    check_data(cfg, LOADERS)
    assert labels(cfg, 'train_dataloader')[0] == dict(n02=0, n01=1)
    assert labels(cfg, 'val_dataloader')[0] == dict(n01=1)


@pytest.mark.parametrize('lines', ['1.png 0\n2.png 1', 'a/1.png 0', None])
def test_folders_that_are_none_of_the_classes_of_a_list(tmp_path, lines):
    """Nor does the list tell what they are; their order does not."""
    cfg = listed(tmp_path, dict(a=0), ['n01', 'n02'], classes=['tench', 'shark'])
    if lines is None:
        cfg.train_dataloader.dataset = dict(
            type='CIFAR10', data_root=str(tmp_path), metainfo=dict(classes=['tench', 'shark'])
        )
    else:
        (tmp_path / 'list.txt').write_text(lines)
    where = 'train_dataloader.dataset' if lines is None else f'"{tmp_path}/list.txt"'
    for loaders, trained in ((LOADERS, None), (LOADERS[2:], ['tench', 'shark'])):
        with pytest.raises(InputError) as error:
            check_data(Config(cfg.to_dict()), loaders, trained)
        assert str(error.value).endswith(
            f'takes labels from the folders in "{tmp_path}/val", and the training data from '
            f'{where}, which does not tell which of the classes tench, shark the folders n01, n02 '
            'are. Call the folders as the classes; or, before training, the classes as the '
            'folders, in the order of the labels: --cfg-options metainfo.classes=NAME,NAME'
        )


def test_a_list_for_training_and_the_folders_of_imagenet(tmp_path):
    """Its labels are the order of the folders, whatever the list's paths are."""
    make_split(tmp_path, 'val', [f'n{index:08d}' for index in range(1000)], images=0)
    (tmp_path / 'train').mkdir()
    (tmp_path / 'list.txt').write_text('1.png 0')
    cfg = splits(tmp_path)
    cfg.train_dataloader.dataset.ann_file = 'list.txt'
    check_data(cfg, LOADERS)
    assert 'metainfo' not in cfg.val_dataloader.dataset
    check_data(cfg, LOADERS[2:], [f'name{index}' for index in range(1000)])
    assert 'class_folders' not in cfg.test_dataloader.dataset


def test_hidden_folders_are_not_read(tmp_path):
    make_split(tmp_path, 'train', ['cat', 'dog', '.ipynb_checkpoints', '__MACOSX'])
    make_split(tmp_path, 'val', ['cat', 'dog', 'dog/.ipynb_checkpoints'])
    cfg = splits(tmp_path)
    check_data(cfg, LOADERS)
    found, dataset = labels(cfg, 'train_dataloader')
    assert found == {'cat': 0, 'dog': 1} and len(dataset) == 4
    assert len(labels(cfg, 'val_dataloader')[1]) == 4


def test_parts_of_a_training_set_together_have_the_classes(tmp_path):
    make_split(tmp_path, 'train', ['cat', 'fox'])
    make_split(tmp_path, 'more', ['dog', 'fox'])
    make_split(tmp_path, 'val', ['dog'])
    cfg = splits(tmp_path, 'CustomDataset')
    parts = [dict(cfg.train_dataloader.dataset, data_prefix=name) for name in ('train', 'more')]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    check_data(cfg, LOADERS)
    assert labels(cfg, 'train_dataloader')[0] == {'cat': 0, 'dog': 1, 'fox': 2}
    assert labels(cfg, 'val_dataloader')[0] == {'dog': 1}


def test_a_checkpoint_knows_its_classes(tmp_path):
    """A test without the training data, and a list of classes in the checkpoint."""
    make_split(tmp_path, 'val', ['cat', 'fox'])
    cfg = splits(tmp_path)
    check_data(cfg, LOADERS[2:], trained_classes=['cat', 'dog', 'fox'])
    assert labels(cfg, 'test_dataloader')[0] == {'cat': 0, 'fox': 2}
    with pytest.raises(InputError, match='holds the folders fox, which are none of the 2 classes'):
        check_data(splits(tmp_path), LOADERS[2:], trained_classes=['cat', 'dog'])


def test_numbers_in_annotations_mean_the_classes_of_the_annotations(tmp_path):
    """Another list of names would hide that, and not change the labels."""
    pipeline = [dict(type='PackInputs', input_key='label')]
    for split, classes in (('train', ['cat', 'dog']), ('val', ['dog', 'cat'])):
        content = dict(metainfo=dict(classes=classes), data_list=[dict(img_path='a', gt_label=0)])
        (tmp_path / f'{split}.json').write_text(json.dumps(content))

    def loader(split, **more):
        dataset = dict(type='mmpretrain.BaseDataset', ann_file=f'{split}.json', pipeline=pipeline)
        return dict(dataset=dict(dataset, data_root=str(tmp_path), **more))

    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(),
            train_dataloader=loader('train', metainfo=dict(classes=['cat', 'dog'])),
            val_dataloader=loader('val'),
        )
    )
    check_data(cfg, LOADERS[:2])
    assert DATASETS.build(cfg.val_dataloader.dataset).metainfo['classes'] == ['dog', 'cat']


def test_classes_from_a_file(tmp_path):
    make_split(tmp_path, 'train', ['hot dog', 'fox'])
    make_split(tmp_path, 'val', ['hot dog', 'fox'])
    (tmp_path / 'classes.txt').write_bytes('\ufeffhot dog\r\nfox\r\n'.encode())
    cfg = splits(tmp_path, 'CustomDataset', classes=str(tmp_path / 'classes.txt'))
    check_data(cfg, LOADERS)
    assert labels(cfg, 'val_dataloader')[0] == {'hot dog': 0, 'fox': 1}


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('where', ['metainfo', 'classes'])
def test_a_text_in_place_of_names(tmp_path, split, where):
    """Without the comma of ("road",) mmseg would train four classes r, o, a and d."""
    make_split(tmp_path, 'train', ['cat', 'dog'])
    make_split(tmp_path, 'val', ['cat', 'dog'])
    for value, reason in (('road', 'the text "road", and no file of this name exists'), (2, '2')):
        cfg = splits(tmp_path, 'CustomDataset')
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset[where] = dict(classes=value) if where == 'metainfo' else value
        key = 'metainfo.classes' if where == 'metainfo' else 'classes'
        with pytest.raises(InputError) as error:
            check_data(cfg, LOADERS)
        assert str(error.value).startswith(f'{split}_dataloader.dataset.{key} is {reason}')


def test_configs_that_read_right_stay_as_they_are(tmp_path):
    make_split(tmp_path, 'train', ['cat', 'dog'])
    make_split(tmp_path, 'val', ['cat', 'dog'])
    cfg = splits(tmp_path)
    check_data(cfg, LOADERS)
    assert cfg.val_dataloader.dataset.type == 'ImageNet'
    assert 'class_folders' not in cfg.val_dataloader.dataset


def test_checks_are_hooks_of_every_training():
    cfg = Config(dict(model=dict(), custom_hooks=[dict(type='mtkdrl_mm.TopKLimitHook')]))
    check_data(cfg, ())
    assert cfg.default_hooks == dict(
        label_check=dict(type='mtkdrl_mm.LabelCheckHook'),
        backbone_check=dict(type='mtkdrl_mm.BackboneCheckHook'),
        left_out_images=dict(type='mtkdrl_mm.LeftOutImagesHook'),
    )


def test_damaged_images_can_be_left_out(tmp_path):
    make_split(tmp_path, 'train', ['cat', 'dog'])
    cfg = splits(tmp_path, wrapper='RepeatDataset')
    cfg.skip_damaged_images = True
    check_data(cfg, LOADERS[:1])
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'RepeatDataset' and dataset.dataset.type == 'mtkdrl_mm.IntactImages'
    assert dataset.dataset.dataset.type == 'ImageNet'
    cfg.skip_damaged_images = 'yes'
    with pytest.raises(InputError, match="must be True or False, but is 'yes'"):
        check_data(cfg, LOADERS[:1])


@pytest.fixture
def detection(tmp_path):
    """Function that makes a config of two COCO files with the given categories."""
    pytest.importorskip('mmdet')

    def make(train, val, classes, wrapper=None):
        for split, names in (('train', train), ('val', val)):
            categories = [dict(id=10 + i, name=name) for i, name in enumerate(names)]
            boxes = [
                dict(id=i, image_id=1, category_id=10 + i, bbox=[0, 0, 9, 9], area=81, iscrowd=0)
                for i in range(len(names))
            ]
            content = dict(
                images=[dict(id=1, file_name='1.png', width=32, height=32)],
                annotations=boxes,
                categories=categories,
            )
            (tmp_path / f'{split}.json').write_text(json.dumps(content))

        def loader(split):
            dataset = dict(
                type='CocoDataset',
                data_root=str(tmp_path),
                ann_file=f'{split}.json',
                data_prefix=dict(img=''),
                metainfo=dict(classes=classes),
            )
            return dict(dataset=wrap(dataset, wrapper))

        return Config(
            dict(
                default_scope='mmdet',
                model=dict(),
                train_dataloader=loader('train'),
                val_dataloader=loader('val'),
            )
        )

    return make


def boxes(cfg, name):
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg[name].dataset)
    return [box['bbox_label'] for box in dataset.get_data_info(0)['instances']]


@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_categories_in_another_order(detection, wrapper):
    cfg = detection(['cat', 'dog', 'fox'], ['fox', 'cat', 'dog'], ['cat', 'dog', 'fox'], wrapper)
    check_data(cfg, LOADERS[:2])
    assert boxes(cfg, 'train_dataloader') == [0, 1, 2]
    assert boxes(cfg, 'val_dataloader') == [2, 0, 1]


def test_names_sort_the_categories(detection):
    cfg = detection(['cat', 'dog', 'fox'], ['cat', 'fox'], ['fox', 'dog', 'cat'])
    check_data(cfg, LOADERS[:2])
    assert boxes(cfg, 'train_dataloader') == [2, 1, 0]
    assert boxes(cfg, 'val_dataloader') == [2, 0]


@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_categories_that_do_not_fit(detection, wrapper):
    names = ['cat', 'dog', 'fox']
    with pytest.raises(InputError, match=r'Of the classes cat, horse, fox, .* lacks horse'):
        check_data(detection(names, names, ['cat', 'horse', 'fox'], wrapper), LOADERS[:2])
    with pytest.raises(InputError, match=r'categories Fox, which the training data does not have'):
        check_data(detection(names, ['cat', 'dog', 'Fox'], names, wrapper), LOADERS[:2])
    # Some of the categories are enough, as in mmdet.
    check_data(detection(names, names, ['cat', 'fox'], wrapper), LOADERS[:2])


def test_categories_of_a_large_file(detection, monkeypatch):
    """A file that is too large to be parsed is read by names too, and has to fit the others."""
    monkeypatch.setattr(data_checks, '_LARGE', 0)
    cfg = detection(['dog', 'cat'], ['dog', 'cat'], ['cat', 'dog'])
    check_data(cfg, LOADERS[:2])
    assert boxes(cfg, 'train_dataloader') == boxes(cfg, 'val_dataloader') == [1, 0]
    cfg = detection(['cat', 'dog'], ['cat', 'dog'], ['cat', 'dog'])
    check_data(cfg, LOADERS[:2])
    assert cfg.train_dataloader.dataset.type == 'CocoDataset'
    with pytest.raises(InputError, match=r'categories Dog, which the training data does not have'):
        check_data(detection(['cat', 'dog'], ['cat', 'Dog'], ['cat', 'dog']), LOADERS[:2])
    with pytest.raises(InputError, match=r'Of the classes cat, horse, .* lacks horse'):
        check_data(detection(['cat', 'dog'], ['cat', 'dog'], ['cat', 'horse']), LOADERS[:2])


def test_categories_that_are_not_found(detection, monkeypatch):
    """In a large file with several lists of this name, labels are by name in any case."""
    monkeypatch.setattr(data_checks, '_LARGE', 0)
    cfg = detection(['dog', 'cat'], ['dog', 'cat'], ['cat', 'dog'])
    path = Path(cfg.train_dataloader.dataset.data_root) / 'train.json'
    content = json.loads(path.read_text())
    content['images'][0]['categories'] = [dict(id=10, name='cat'), dict(id=11, name='dog')]
    path.write_text(json.dumps(content))
    check_data(cfg, LOADERS[:2])
    assert boxes(cfg, 'train_dataloader') == boxes(cfg, 'val_dataloader') == [1, 0]


def test_categories_beyond_the_first_part_of_a_large_file(tmp_path):
    names = [f'a category with the long name {number}' for number in range(50_000)]
    content = dict(info='"categories": [', images=[], annotations=[])
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(names)]
    path = tmp_path / 'large.json'
    path.write_text(json.dumps(content))
    assert data_checks._search_categories(str(path)) == list(enumerate(names))


def test_classes_of_mmdet_itself(detection):
    """Without `metainfo` the classes are those of the class, in whatever order the files are."""
    from mmdet.datasets import CocoDataset

    names = list(CocoDataset.METAINFO['classes'])
    cfg = detection(sorted(names), names, names)
    for name in LOADERS[:2]:
        del cfg[name].dataset['metainfo']
    check_data(cfg, LOADERS[:2])
    assert boxes(cfg, 'train_dataloader') == [names.index(name) for name in sorted(names)]
    assert boxes(cfg, 'val_dataloader') == list(range(80))


@pytest.mark.parametrize('name', ['PetsCocoDataset', 'Pets'])
def test_own_classes_keep_their_methods(detection, name):
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS as MMDET_DATASETS

    pets = type(name, (CocoDataset,), dict(load_data_list=lambda self: []))
    MMDET_DATASETS.register_module(module=pets, force=True)
    cfg = detection(['dog', 'cat'], ['dog', 'cat'], ['cat', 'dog'])
    for loader in LOADERS[:2]:
        cfg[loader].dataset['type'] = name
    check_data(cfg, LOADERS[:2])
    assert cfg.train_dataloader.dataset.type == name
    # Names are compared whatever a class is called.
    cfg.val_dataloader.dataset.ann_file = 'other.json'
    path = Path(cfg.train_dataloader.dataset.data_root) / 'other.json'
    path.write_text(json.dumps(dict(images=[], annotations=[], categories=[dict(id=1, name='x')])))
    with pytest.raises(InputError, match=r'categories x, which the training data does not have'):
        check_data(cfg, LOADERS[:2])


def test_a_saved_config_with_labels_by_name(detection):
    """mmengine saves the adapted config in the work dir; a later test reads it."""
    cfg = detection(['dog', 'cat'], ['dog', 'cat'], ['cat', 'dog'])
    check_data(cfg, LOADERS[:2])
    path = Path(cfg.train_dataloader.dataset.data_root) / 'saved.json'
    path.write_text(json.dumps(cfg.to_dict()))
    script = (
        'import sys; from mmengine.config import Config; from mmengine.registry import DATASETS; '
        'from mtkdrl_mm.utils.launch import check_data; cfg = Config.fromfile(sys.argv[1]); '
        'check_data(cfg, ("train_dataloader", "val_dataloader")); '
        'data = DATASETS.build(cfg.val_dataloader.dataset); print(sorted(data.cat2label.items()))'
    )
    result = subprocess.run(
        [sys.executable, '-c', script, str(path)], capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines()[-1:] == ['[(10, 1), (11, 0)]'], result.stderr


@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_names_do_not_change_the_numbers_in_label_maps(tmp_path, wrapper):
    mmseg = pytest.importorskip('mmseg.datasets')
    names = ['ground', 'road', 'car']

    def config(train, val, kind='BaseSegDataset'):
        def loader(classes):
            dataset = dict(type=kind, data_root=str(tmp_path), metainfo=dict(classes=classes))
            return dict(dataset=wrap(dataset if classes else dict(dataset, metainfo={}), wrapper))

        return Config(
            dict(
                default_scope='mmseg',
                train_dataloader=loader(train),
                val_dataloader=loader(val),
                test_dataloader=loader(val),
            )
        )

    def found(cfg):
        return [dataset['metainfo']['classes'] for _, dataset in loader_datasets(cfg, LOADERS[1:2])]

    for val in (['road', 'ground', 'car'], ['ground', 'car']):
        for cfg, trained, loaders in (
            (config(names, val), None, LOADERS),
            (config(val, val), names, LOADERS[2:]),
        ):
            with pytest.raises(InputError) as error:
                check_data(cfg, loaders, trained)
            where = 'the checkpoint' if trained else 'train_dataloader.dataset'
            assert where in str(error.value) and (
                'has the classes ground, road, car, and the label maps of a BaseSegDataset have '
                'numbers, which would mean other classes. Set the same `metainfo.classes` in all '
            ) in str(error.value)
    for val in (names, None):
        cfg = config(names, val)
        check_data(cfg, LOADERS, names)
        assert set(found(cfg)) == {tuple(names)}
    # mmseg renumbers label maps whose own names it knows.
    streets = list(mmseg.CityscapesDataset.METAINFO['classes'])
    cfg = config(streets[:3], streets[1::-1], 'CityscapesDataset')
    check_data(cfg, LOADERS)
    assert set(found(cfg)) == {tuple(streets[:3])}
