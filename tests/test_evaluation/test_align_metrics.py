# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""COCO metrics evaluate the images and classes of the data set, whatever their file holds."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from mtkdrl_mm.evaluation.align_metrics import CategoryIds, align_metrics
from mtkdrl_mm.utils import InputError

BOX, AWAY = [10.0, 10.0, 40.0, 40.0], [50.0, 50.0, 60.0, 60.0]


class Data(list):
    """One object in every image: pairs of image id and label."""

    def __init__(self, images, classes=('cat', 'dog'), folder='images', ann_file='val.json'):
        super().__init__(images)
        self.metainfo, self.folder, self.ann_file = dict(classes=classes), folder, ann_file

    def get_data_info(self, index):
        number, label = self[index]
        path = f'{self.folder}/{number}.png'
        return dict(img_id=number, img_path=path, instances=[dict(bbox=BOX, bbox_label=label)])


class Joined:
    """As mmengine's ConcatDataset."""

    def __init__(self, *datasets):
        self.datasets, self.metainfo = datasets, datasets[0].metainfo
        self.infos = [part.get_data_info(i) for part in datasets for i in range(len(part))]

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return self.infos[index]


@pytest.fixture
def metric(tmp_path):
    """Function that makes a CocoMetric with a file of the images' categories."""
    coco = pytest.importorskip('mmdet.evaluation').CocoMetric

    def make(images, categories, **kwargs):
        content = dict(
            images=[dict(id=i, file_name=f'{i}.png', width=64, height=64) for i in images],
            annotations=[
                dict(id=k, image_id=i, category_id=c, bbox=[10, 10, 30, 30], area=900, iscrowd=0)
                for k, (i, c) in enumerate(images.items(), 1)
            ],
            categories=[dict(id=number, name=name) for number, name in categories],
        )
        (tmp_path / 'metric.json').write_text(json.dumps(content))
        return coco(ann_file=str(tmp_path / 'metric.json'), **kwargs)

    return make


def results(metric, data, badly_found=()):
    """The metric's numbers for a detector that finds all but the objects of some labels."""
    align_metrics(SimpleNamespace(metrics=[SimpleNamespace(), metric]), data, 'val')
    metric.dataset_meta = data.metainfo
    for index in range(len(data)):
        info = data.get_data_info(index)
        label = info['instances'][0]['bbox_label']
        found = dict(
            bboxes=torch.tensor([AWAY if label in badly_found else BOX]),
            scores=torch.ones(1),
            labels=torch.tensor([label]),
        )
        metric.process({}, [dict(**info, ori_shape=(64, 64), pred_instances=found)])
    found = metric.evaluate(len(data))
    return {name.removeprefix('coco/'): value for name, value in found.items()}


def test_a_file_with_more_images(metric):
    """Images that are not in the data set count as missed otherwise: 0.337."""
    made = metric({4: 1, 2: 2, 3: 1, 9: 2}, [(1, 'cat'), (2, 'dog')])
    for _ in range(2):  # after every epoch
        assert results(made, Data([(9, 1), (2, 1)]))['bbox_mAP'] == 1
        assert made.img_ids == [9, 2]


@pytest.mark.parametrize('categories', [[(7, 'cat'), (3, 'dog')], [(3, 'dog'), (7, 'cat')]])
def test_names_of_the_rows(metric, categories, tmp_path):
    """COCO sorts its table by id, whatever the order of the names is."""
    images, data = {1: 7, 2: 3}, Data([(1, 0), (2, 1)], ('cat', 'dog', 'cow'))
    for prefix in (None, str(tmp_path / 'found')):
        made = metric(images, categories, classwise=True, outfile_prefix=prefix)
        found = results(made, data, badly_found=[1])
        assert (found['cat_precision'], found['dog_precision']) == (1, 0)
        assert math.isnan(found['cow_precision'])
        assert found['bbox_mAP'] == 0.5
    # What is written for others has the ids of the file.
    written = json.loads((tmp_path / 'found.bbox.json').read_text())
    assert [(box['image_id'], box['category_id']) for box in written] == [(1, 7), (2, 3)]


def test_one_file_for_a_concatenated_set(metric):
    data = Joined(Data([(1, 0), (2, 1)]), Data([(101, 1)], folder='others'))
    made = metric({1: 2, 2: 1, 101: 1}, [(1, 'dog'), (2, 'cat')])
    assert results(made, data)['bbox_mAP'] == 1


def test_annotations_of_the_data_set_itself():
    """Without a file the metric numbers the categories by label."""
    made = pytest.importorskip('mmdet.evaluation').CocoMetric(classwise=True)
    data = Data([(1, 0), (2, 1), (3, 2)], ('cat', 'dog', 'emu'))
    for _ in range(2):
        found = results(made, data, badly_found=[2])
        assert [found[f'{name}_precision'] for name in ('cat', 'dog', 'emu')] == [1, 1, 0]


def test_no_annotations_at_all():
    """mmdet finds out after the first epoch, by an assertion."""
    from mmdet.datasets.transforms import PackDetInputs

    evaluator = SimpleNamespace(metrics=[pytest.importorskip('mmdet.evaluation').CocoMetric()])
    data = Data([(1, 0)])
    for keys in (('img_id', 'instances'), ('img_id',)):
        data.pipeline = SimpleNamespace(transforms=[PackDetInputs(meta_keys=keys)])
        with (
            nullcontext()
            if 'instances' in keys
            else pytest.raises(
                InputError,
                match=r'^test_evaluator \(CocoMetric\) has no .* the data set, "val\.json"',
            )
        ):
            align_metrics(evaluator, data, 'test')


def test_what_does_not_fit_is_refused(metric):
    images, categories = {1: 1, 2: 2}, [(1, 'cat'), (2, 'dog')]
    for data, message in (
        (
            Data([(1, 0), (5, 1)]),
            r'^1 of 2 images are not in the annotation file of val_evaluator \(CocoMetric\), the '
            r'first of them id 5, "images/5\.png": set its `ann_file` .*, "val\.json"',
        ),
        (
            Joined(Data([(1, 0)]), Data([(1, 0)], folder='others')),
            r'^"images/1\.png" and "others/1\.png" have the same image id, 1, so that val_eval',
        ),
        (
            Data([(1, 0), (2, 1)], ('cat', 'Dog')),
            r'CocoMetric\) lacks Dog of the classes cat, Dog; its `categories` are cat, dog: ',
        ),
        (Data([], ('Cat', 'Dog')), None),
        (Data([(1, 0)], ('Cat', 'Dog')), r'lacks Cat, Dog of the classes'),
        # There is no dog in these images.
        (Data([(1, 0)], ('cat', 'Dog')), None),
    ):
        evaluator = SimpleNamespace(metrics=[metric(images, categories)])
        if message is None:
            align_metrics(evaluator, data, 'val')
        else:
            with pytest.raises(InputError, match=message):
                align_metrics(evaluator, data, 'val')
    made = metric(images, [*categories, (3, 'cat')])
    with pytest.raises(
        InputError, match=r'CocoMetric\) has several `categories` with the name cat'
    ):
        align_metrics(SimpleNamespace(metrics=[made]), Data([(1, 0), (2, 1)]), 'val')
    made = metric(images, categories)
    made._coco_api.imgs[2]['file_name'] = 'others/7.png'
    with pytest.raises(InputError, match=r'id 2 is "images/2\.png" .* and "others/7\.png" in the'):
        align_metrics(SimpleNamespace(metrics=[made]), Data([(1, 0), (2, 1)]), 'val')


def test_metrics_with_categories_of_their_own():
    class OVCocoMetric(SimpleNamespace):
        pass

    made = OVCocoMetric(cat_ids=None, img_ids=None, _coco_api=SimpleNamespace(imgs={1: {}, 2: {}}))
    align_metrics(SimpleNamespace(metrics=[made]), Data([(2, 0)]), 'test')
    assert (made.cat_ids, made.img_ids) == (None, [2])


def test_ids_by_label_and_in_order():
    ids = CategoryIds([7, -2, 5])
    assert list(ids) == [-2, 5, 7] and [ids[label] for label in range(3)] == [7, -2, 5]
