# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""On the command line one mention of the data is enough."""

import json
import re
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.data_settings import follow_data
from mtkdrl_mm.utils.launch import check_data

CONFIGS = Path(__file__).parents[2] / 'configs'
COCO = f'{CONFIGS}/detection/cascade-mask-rcnn_r18_fpn_1x_coco.py'
CITYSCAPES = f'{CONFIGS}/segmentation/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load(path, options):
    cfg, before = Config.fromfile(path), Config.fromfile(path)
    cfg.merge_from_dict(options)
    follow_data(cfg, before, options)
    return cfg


def num_classes(cfg):
    heads = cfg.model.roi_head
    return [head.num_classes for head in [*heads.bbox_head, heads.mask_head]]


@pytest.mark.parametrize('path', [COCO, CITYSCAPES])
def test_nothing_changes_without_options(path):
    assert load(path, {}).to_dict() == Config.fromfile(path).to_dict()


def test_data_root_is_the_root_of_everything():
    cfg = load(COCO, {'data_root': 'my/coco'})
    for name in LOADERS:
        assert cfg[name].dataset.data_root == 'my/coco'
        assert cfg[name].dataset.ann_file == Config.fromfile(COCO)[name].dataset.ann_file
    for name in ('val_evaluator', 'test_evaluator'):
        assert cfg[name].ann_file == 'my/coco/annotations/instances_val2017.json'


def test_data_root_leaves_what_is_given_too():
    key = 'val_dataloader.dataset.data_root'
    cfg = load(COCO, {'data_root': 'my/coco', key: 'other'})
    assert cfg.train_dataloader.dataset.data_root == 'my/coco'
    assert cfg.val_dataloader.dataset.data_root == 'other'
    cfg = load(COCO, {'data_root': 'my/coco', 'val_evaluator.ann_file': 'third.json'})
    assert cfg.val_evaluator.ann_file == 'third.json'


def test_data_root_leaves_neighbours_of_the_old_one():
    cfg = Config.fromfile(COCO)
    cfg.train_dataloader.dataset.ann_file = 'data/coco_more/train.json'
    follow_data(cfg, Config.fromfile(COCO), {'data_root': 'my'})
    assert cfg.train_dataloader.dataset.ann_file == 'data/coco_more/train.json'


def test_evaluator_follows_its_data_set():
    cfg = load(
        COCO,
        {
            'val_dataloader.dataset.data_root': 'my',
            'val_dataloader.dataset.ann_file': 'val.json',
        },
    )
    assert cfg.val_evaluator.ann_file == 'my/val.json'
    assert cfg.test_evaluator.ann_file == 'data/coco/annotations/instances_val2017.json'


def test_data_root_without_effect():
    cfg = Config(dict(model=dict(type='A')))
    with pytest.raises(InputError, match='data_root=somewhere has no effect'):
        follow_data(cfg, cfg, {'data_root': 'somewhere'})


@pytest.mark.parametrize('key', ['metainfo.classes', 'train_dataloader.dataset.metainfo.classes'])
@pytest.mark.parametrize(
    ('value', 'classes'), [(['cat', 'dog'], ('cat', 'dog')), ('cat', ('cat',))]
)
def test_classes_of_all_data_sets_and_heads(key, value, classes):
    cfg = load(COCO, {key: value})
    assert [cfg[name].dataset.metainfo.classes for name in LOADERS] == [classes] * 3
    assert num_classes(cfg) == [len(classes)] * 4
    # The palette of 80 colours goes with its classes.
    assert 'palette' not in cfg.train_dataloader.dataset.metainfo
    assert cfg.model.rpn_head == Config.fromfile(COCO).model.rpn_head


def test_classes_of_segmentors():
    cfg = load(CITYSCAPES, {'metainfo.classes': ['road', 'car', 'person']})
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 3


def test_classes_of_a_distillation():
    path = CONFIGS / 'mtkdrl' / 'r18_imagenet.py'
    cfg = load(path, {'data_root': 'my', 'metainfo.classes': ['cat', 'dog']})
    assert cfg.model.num_classes == 2
    assert [cfg[name].dataset.data_root for name in LOADERS] == ['my'] * 3
    assert cfg.model.student == Config.fromfile(path).model.student


def test_classes_of_a_plain_classifier():
    path = CONFIGS / 'baseline' / 'r18_imagenet.py'
    cfg = load(path, {'metainfo.classes': ['cat', 'dog', 'cow']})
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 3


def test_classes_from_a_file(tmp_path):
    (tmp_path / 'classes.txt').write_bytes('\ufeffcat\r\nhot dog\r\n\ncow\n'.encode())
    cfg = load(COCO, {'metainfo.classes': str(tmp_path / 'classes.txt')})
    assert cfg.val_dataloader.dataset.metainfo.classes == ('cat', 'hot dog', 'cow')


@pytest.mark.parametrize('key', ['metainfo.classes', 'val_dataloader.dataset.metainfo.classes'])
def test_a_number_in_place_of_names(key):
    message = f'{key} is 2, but must be the names of the classes, or a file with a name in each'
    with pytest.raises(InputError, match=re.escape(message)):
        load(COCO, {key: 2})
    # Classes may be called by numbers.
    assert num_classes(load(COCO, {key: [1, 2]})) == [2] * 4


def test_number_of_classes_that_disagrees():
    key = 'model.roi_head.mask_head.num_classes'
    assert num_classes(load(COCO, {'metainfo.classes': ['a', 'b'], key: 2})) == [2] * 4
    with pytest.raises(InputError, match=re.escape(f'{key} is 3, but the data sets have 2')):
        load(COCO, {'metainfo.classes': ['a', 'b'], key: 3})


def test_data_sets_that_disagree():
    keys = [f'{name}.dataset.metainfo.classes' for name in LOADERS[:2]]
    with pytest.raises(InputError, match=re.escape(f'{keys[1]} are b, but other data sets have a')):
        load(COCO, {keys[0]: ['a'], keys[1]: ['b']})


def test_inside_of_wrappers():
    cfg = Config.fromfile(COCO)
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner, inner])
    )
    before = Config(cfg.to_dict())
    follow_data(cfg, before, {'data_root': 'my', 'metainfo.classes': ['a']})
    parts = cfg.train_dataloader.dataset.dataset.datasets
    assert [(part.data_root, part.metainfo.classes) for part in parts] == [('my', ('a',))] * 2


@pytest.fixture
def coco(tmp_path):
    """Config of a data set whose annotation file has the given text."""

    def write(text):
        for folder in ('annotations', 'train2017', 'val2017'):
            (tmp_path / folder).mkdir(exist_ok=True)
        for split in ('train', 'val'):
            path = tmp_path / 'annotations' / f'instances_{split}2017.json'
            path.write_text(text)
        return load(COCO, {'data_root': str(tmp_path)})

    return write


def test_good_annotations(coco):
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=number, name=name) for number, name in enumerate(names)]
    cfg = coco(json.dumps(dict(images=[], annotations=[], categories=categories)))
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    assert cfg.train_dataloader.dataset.type == 'CocoDataset'
    # Without the classes nothing would be learned.
    with pytest.raises(InputError, match='lacks person, bicycle, car'):
        cfg = coco(json.dumps(dict(images=[], annotations=[], categories=[])))
        check_data(cfg, ('train_dataloader', 'val_dataloader'))


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('<annotation></annotation>', 'Expecting value: line 1'),
        ('[]', 'it holds a list'),
        ('{"images": []}', 'no list of annotations, categories, only .*images'),
        ('{"images": {}, "annotations": [], "categories": []}', 'no list of images'),
    ],
)
def test_annotations_that_are_no_coco_json(coco, text, problem):
    with pytest.raises(
        InputError, match=rf'instances_train2017.json" .* no COCO JSON: .*{problem}'
    ):
        check_data(coco(text), ('train_dataloader',))


def test_missing_folder_of_images(coco, tmp_path):
    cfg = coco(json.dumps(dict(images=[], annotations=[], categories=[])))
    (tmp_path / 'train2017').rmdir()
    with pytest.raises(InputError, match=r'train2017/" \(train_dataloader.dataset.data_prefix.img'):
        check_data(cfg, ('train_dataloader',))


def test_missing_annotations_of_the_evaluator(coco):
    cfg = coco(json.dumps(dict(images=[], annotations=[], categories=[])))
    cfg.val_evaluator.ann_file = 'nowhere.json'
    with pytest.raises(InputError, match=r'"nowhere.json" \(val_evaluator.ann_file\)'):
        check_data(cfg, ('train_dataloader', 'val_dataloader'))
