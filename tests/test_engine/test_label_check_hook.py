# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Labels outside of the model's classes are found before training."""

import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.runner import BaseLoop
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mtkdrl_mm.engine.hooks import LabelCheckHook
from mtkdrl_mm.utils import InputError


def model(num_classes):
    network = nn.Module()
    network.decode_head = nn.Module()
    network.decode_head.num_classes = num_classes
    return network


def segmentation(*values):
    label_map = torch.tensor(values).view(1, 1, -1)
    sample = SegDataSample(metainfo=dict(seg_map_path='labels.png'))
    return dict(data_samples=sample.set_data(dict(gt_sem_seg=PixelData(data=label_map))) or sample)


def detection(*labels):
    sample = DetDataSample(metainfo=dict(img_path='image.jpg'))
    sample.gt_instances = InstanceData(labels=torch.tensor(labels))
    return dict(data_samples=sample)


class Data(list):
    metainfo = dict(classes=('cat', 'dog', 'cow'))


def run(network, samples, data=Data, val=None, **kwargs):
    loaders = [SimpleNamespace(dataset=dataset) for dataset in (data(samples), val)]
    runner = SimpleNamespace(
        train_dataloader=loaders[0], val_dataloader=loaders[1], val_loop=val, model=network
    )
    LabelCheckHook(**kwargs).before_train(runner)


def test_good_labels_pass():
    run(model(3), [segmentation(0, 1, 2, 255), segmentation(2)])
    run(model(3), [detection(0, 2), detection()])
    run(nn.Linear(2, 2), [segmentation(99)])


@pytest.mark.parametrize('make', [segmentation, detection])
def test_a_label_without_a_class(make):
    samples = [make(0, 1)] * 4 + [make(0, 3, 7)]
    path = 'labels.png' if make is segmentation else 'image.jpg'
    with pytest.raises(
        InputError, match=rf'"{path}" has the labels 3, 7, but `model.decode_head.num_classes` is 3'
    ):
        run(model(3), samples)
    run(model(3), samples, num_samples=1)  # sees the first one alone


@pytest.mark.parametrize('make', [segmentation, detection])
def test_a_label_without_a_class_in_validation_or_test(make):
    path = 'labels.png' if make is segmentation else 'image.jpg'
    other = Data([make(0, 1)] * 4 + [make(0, 5)])
    message = rf'"{path}" has the labels 5, but `model.decode_head.num_classes` is 3'
    with pytest.raises(InputError, match=message):
        run(model(3), [make(0, 1)], val=other)
    with pytest.raises(InputError, match=message):
        check_test(model(3), other)
    check_test(model(3), Data([make(0, 1)]))
    # The views of test-time augmentation, and a test set without labels.
    check_test(model(3), Data([dict(data_samples=[make(2)['data_samples']])]))
    check_test(model(3), Data([dict(data_samples=SegDataSample())]))


def check_test(network, dataset):
    LabelCheckHook().before_test(
        SimpleNamespace(
            model=network,
            test_dataloader=SimpleNamespace(dataset=dataset),
            test_evaluator=SimpleNamespace(metrics=[]),
        )
    )


def test_region_proposals_know_no_classes():
    """The RPN of two-stage detectors has one class, whatever the labels are."""
    network = model(3)
    network.rpn_head = nn.Module()
    network.rpn_head.num_classes = 1
    run(network, [detection(0, 2)])
    with pytest.raises(InputError, match='has the labels 3'):
        run(network, [detection(3)])


def test_empty_set():
    with pytest.raises(InputError, match=r'training set is empty: .* cat, dog, cow'):
        run(model(3), [])


def test_heads_without_the_datas_classes():
    with pytest.raises(
        InputError,
        match=r'model.decode_head.num_classes` is 80, but .* has 3 classes: cat, dog, cow',
    ):
        run(model(80), [segmentation(0)])


def test_all_heads_are_named_at_once():
    network = model(80)
    network.roi_head = nn.Module()
    network.roi_head.bbox_head = nn.ModuleList([model(7).decode_head, model(3).decode_head])
    with pytest.raises(
        InputError,
        match=r'correct, set model\.decode_head\.num_classes=3 '
        r'model\.roi_head\.bbox_head\.0\.num_classes=3; if not, set the classes',
    ):
        run(network, [detection(0)])


def test_classes_that_the_annotations_do_not_have():
    class Coco(Data):
        cat_ids = (1, 4)
        ann_file = 'instances.json'

    for Coco.cat_ids in ((1, 4), (1, -2, 4)):  # labels by name have numbers for all classes
        with pytest.raises(
            InputError, match=r'cat, dog, cow, the annotation file "instances.json" .* 2'
        ):
            run(model(3), [detection(0)], data=Coco)


def test_validation_with_other_classes():
    class Other(Data):
        metainfo = dict(classes=('dog', 'cat', 'cow'))

    run(model(3), [detection(0)], val=Data())
    with pytest.raises(InputError, match='the validation set dog, cat, cow'):
        run(model(3), [detection(0)], val=Other())


def test_test_set_with_other_classes_than_the_checkpoint():
    class Loop(BaseLoop):
        def __init__(self, dataset):
            self.dataloader = SimpleNamespace(dataset=dataset)

        def run(self):
            pass

    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('cat', 'cow', 'dog'))))
    runner = SimpleNamespace(_test_loop=Loop(Wrapper(Classified([0]))))
    with pytest.raises(
        InputError, match=r'training set has the classes cat, cow, dog, the test set cat, dog, cow'
    ):
        LabelCheckHook().after_load_checkpoint(runner, checkpoint)
    # Other weights say nothing of classes, and training may start from those of other classes.
    LabelCheckHook().after_load_checkpoint(runner, dict(state_dict={}))
    LabelCheckHook().after_load_checkpoint(SimpleNamespace(_test_loop=dict()), checkpoint)


def test_bad_arguments():
    with pytest.raises(InputError, match='`num_samples` must be at least 1'):
        LabelCheckHook(num_samples=0)


class Classified(list):
    """Images with labels; `ann_file` as mmpretrain's data sets have it."""

    ann_file = 'train.txt'
    metainfo = dict(classes=('cat', 'dog', 'cow'))

    def get_data_info(self, index):
        return dict(img_path=f'images/{index}.png', gt_label=self[index])


class Wrapper(list):
    """As RepeatDataset and others keep what they wrap."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.dataset, self.metainfo = dataset, dataset.metainfo


@pytest.mark.parametrize('wrap', [lambda dataset: dataset, Wrapper])
@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (
            [1, 2, 3],
            'The labels in "train.txt" are 1 to 3, but with 3 classes they must be 0 to 2. The '
            'first image with such a label is "images/2.png". They seem to start at 1: '
            'subtract 1 from every label.',
        ),
        (
            [0, 7, 4, 2],
            'The labels in "train.txt" are 0 to 7, but with 3 classes they must be 0 to 2. The '
            'first image with such a label is "images/1.png". Correct the labels; or, if there are '
            '8 classes, set `model.decode_head.num_classes=8`.',
        ),
        (
            [0, -1],
            'The labels in "train.txt" are -1 to 0, but with 3 classes they must be 0 to 2. The '
            'first image with such a label is "images/1.png". Correct the labels.',
        ),
    ],
)
def test_labels_of_images(wrap, labels, message):
    with pytest.raises(InputError) as error:
        run(model(3), labels, data=lambda samples: wrap(Classified(samples)))
    assert str(error.value) == message
    # In the validation set, and where a test runs alone.
    with pytest.raises(InputError) as error:
        run(model(3), [0], data=Classified, val=wrap(Classified(labels)))
    assert str(error.value) == message
    runner = SimpleNamespace(
        model=model(3), test_dataloader=SimpleNamespace(dataset=wrap(Classified(labels)))
    )
    with pytest.raises(InputError) as error:
        LabelCheckHook().before_test(runner)
    assert str(error.value) == message


def test_labels_of_images_without_a_head_that_counts():
    """The data's own list of classes decides then."""
    run(nn.Linear(2, 2), [0, 2, 1], data=Classified)
    with pytest.raises(InputError, match=r'are 0 to 3, but with 3 classes they must be 0 to 2'):
        run(nn.Linear(2, 2), [0, 3], data=Classified)


def test_several_labels_of_an_image():
    run(model(3), [[0, 2], [], [1]], data=Classified)
    with pytest.raises(InputError, match=r'are 0 to 5, .* is "images/1\.png"'):
        run(model(3), [[0, 2], [5, 1]], data=Classified)


def test_classes_inside_of_wrappers():
    class Coco(Data):
        cat_ids = (1, 4)
        ann_file = 'instances.json'

    class Other(Data):
        metainfo = dict(classes=('dog', 'cat', 'cow'))

    with pytest.raises(InputError, match=r'annotation file "instances\.json" has only 2'):
        run(model(3), [detection(0)], data=lambda samples: Wrapper(Coco(samples)))
    with pytest.raises(InputError, match='the validation set dog, cat, cow'):
        run(model(3), [detection(0)], val=Wrapper(Other([detection(0)])))


@pytest.mark.parametrize('wrap', [lambda dataset: dataset, Wrapper])
def test_categories_with_labels_of_other_classes(wrap, tmp_path):
    """mmdet's data sets, and own ones, number the categories in the order of the file."""

    class Coco(Data):
        cat_ids = (3, 5, 9)
        ann_file = str(tmp_path / 'instances.json')

    def categories(*names):
        parts = [dict(id=number, name=name) for number, name in zip((3, 5, 9, 4), names)]
        content = dict(images=[], annotations=[], categories=parts)
        (tmp_path / 'instances.json').write_text(json.dumps(content))

    Coco.cat2label = {3: 0, 5: 1, 9: 2}
    message = (
        r'^A Coco gives the category "dog" of ".*instances\.json" the label 0, which is "cat" of '
        'the classes cat, dog, cow: sort `metainfo.classes`'
    )
    for labels, names, fits in (
        ({3: 0, 5: 1, 9: 2}, ('cat', 'dog', 'cow', 'emu'), True),
        ({3: 0, 5: 1, 9: 2}, ('dog', 'cat', 'cow'), False),
        ({3: 1, 5: 0, 9: 2}, ('dog', 'cat', 'cow'), True),
        # Data with other names than those of its class, such as another version of LVIS.
        ({3: 0, 5: 1, 9: 2}, ('Cat', 'Dog', 'cow'), True),
    ):
        Coco.cat2label = labels
        categories(*names)
        data = wrap(Coco([detection(0)]))
        runner = SimpleNamespace(
            model=model(3),
            test_dataloader=SimpleNamespace(dataset=data),
            test_evaluator=SimpleNamespace(metrics=[]),
        )
        for check in (
            lambda data=data: run(model(3), [0], data=lambda samples: data),
            lambda data=data: run(model(3), [detection(0)], val=data),
            lambda runner=runner: LabelCheckHook().before_test(runner),
        ):
            with nullcontext() if fits else pytest.raises(InputError, match=message):
                check()


def test_a_name_of_several_categories(tmp_path):
    class Coco(Data):
        cat_ids, cat2label = (3, 5, 9), {3: 0, 5: 1, 9: 2}
        ann_file = str(tmp_path / 'instances.json')

    for names, message in (
        (('cat', 'dog', 'cow', 'cat'), r'^".*instances\.json" has several .* with the name cat, '),
        (('cat', 'dog', 'cow', 'emu', 'emu'), None),  # emus are not used
    ):
        parts = [dict(id=number, name=name) for number, name in zip((3, 5, 9, 2, 4), names)]
        content = json.dumps(dict(images=[], annotations=[], categories=parts))
        (tmp_path / 'instances.json').write_text(content)
        with pytest.raises(InputError, match=message) if message else nullcontext():
            run(model(3), [detection(0)], data=Coco)


class Boxes(Data):
    """Labels of the boxes of every image, those to be ignored as strings."""

    def __getitem__(self, index):
        return detection(*map(int, super().__getitem__(index)))

    def get_data_info(self, index):
        labels = super().__getitem__(index)
        boxes = [dict(bbox_label=int(x), ignore_flag=int(isinstance(x, str))) for x in labels]
        return dict(img_id=index, instances=boxes)


class Repeated(Wrapper):
    def __getitem__(self, index):
        return self.dataset[index]


@pytest.mark.parametrize('wrap', [lambda dataset: dataset, Repeated])
def test_classes_without_an_object(wrap, caplog):
    """Objects whose names are written otherwise are left out by mmdet without a word."""

    def warnings(*labels):
        caplog.clear()
        runner = SimpleNamespace(
            train_dataloader=SimpleNamespace(dataset=wrap(Boxes(labels))),
            val_loop=None,
            model=model(3),
            logger=logging.getLogger('test'),
        )
        LabelCheckHook().before_train(runner)
        return [record.getMessage() for record in caplog.records]

    start = 'The training set has no object of 2 of its classes: dog, cow. Objects of other names'
    (message,) = warnings([0], [], [0, '2'])
    assert message.startswith(start)
    assert warnings([0], [2], [1, 0]) == []
    assert warnings([0, 2, 1], []) == []


def test_images_are_mixed_for_all_classes():
    network = model(3)
    network.data_preprocessor = nn.Module()
    network.data_preprocessor.batch_augments, network.data_preprocessor.num_classes = 'mixup', 10
    with pytest.raises(InputError, match=r'^`data_preprocessor\.num_classes` is 10, but .* 3 cla'):
        run(network, [0], data=Classified)


def test_metrics_follow_the_data_set():
    """Before training, where what does not fit costs nothing, and before what they evaluate."""

    class Detected(Data):
        ids = (8, 3)

        def get_data_info(self, index):
            return dict(img_id=self.ids[index])

    def runner():
        api = SimpleNamespace(
            imgs={number: {} for number in (3, 5, 8)},
            dataset=dict(categories=[dict(id=6, name='dog'), dict(id=2, name='cat')]),
            cats={},
        )
        metric = SimpleNamespace(cat_ids=None, img_ids=None, _coco_api=api)
        loader = SimpleNamespace(dataset=Detected([detection(0), detection(2)]))
        evaluator = SimpleNamespace(metrics=[SimpleNamespace(), metric])
        return metric, SimpleNamespace(
            model=model(3),
            train_dataloader=SimpleNamespace(dataset=Data([detection(0)])),
            val_loop=object(),
            val_dataloader=loader,
            val_evaluator=evaluator,
            test_dataloader=loader,
            test_evaluator=evaluator,
        )

    for stage in ('before_train', 'before_val', 'before_test'):
        metric, run_of_it = runner()
        getattr(LabelCheckHook(), stage)(run_of_it)
        assert metric.img_ids == [8, 3]
        assert [metric.cat_ids[label] for label in range(3)] == [2, 6, -3]
    metric, run_of_it = runner()
    run_of_it.val_dataloader.dataset.ids = (8, 4)
    with pytest.raises(InputError, match=r'^1 of 2 images are not in .* of val_evaluator \(Simpl'):
        LabelCheckHook().before_train(run_of_it)


@pytest.mark.parametrize('count', [2, 5])
def test_class_weights_of_another_number_of_classes(count):
    """As those of a base config for Cityscapes, which do not follow `metainfo.classes`."""
    network = model(3)
    network.decode_head.loss_decode = nn.Module()
    for weights in (None, 0.5, [1.0] * 3, [1.0] * 3 + [0.1]):
        network.decode_head.loss_decode.class_weight = weights
        run(network, [segmentation(0, 1, 2)])
    network.decode_head.loss_decode.class_weight = [1.0] * count
    with pytest.raises(InputError) as error:
        run(network, [segmentation(0, 1, 2)])
    assert str(error.value) == (
        f'`class_weight` of `model.decode_head.loss_decode` has {count} numbers, but there are 3 '
        'classes: set it to a list with one for each, or to None.'
    )
