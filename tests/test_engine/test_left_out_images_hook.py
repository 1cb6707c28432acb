# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Damaged images that were left out are listed at the end."""

import logging
from types import SimpleNamespace

from mtkdrl_mm.engine.hooks import LeftOutImagesHook


class Data(list):
    left_out = ()

    def get_data_info(self, index):
        return dict(img_id=self[index])


def loader(ids, left_out):
    dataset = Data(ids)
    dataset.left_out = left_out
    return SimpleNamespace(dataset=SimpleNamespace(dataset=dataset))


def test_images_are_listed_once(caplog):
    train = SimpleNamespace(datasets=[loader([1], ['a.png', 'b.png']).dataset] * 2)
    runner = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=train),
        val_dataloader=loader([1], []),
        val_loop=object(),
        test_dataloader=loader([1], ['c.png']),
        logger=logging.getLogger('test'),
    )
    with caplog.at_level(logging.WARNING):
        LeftOutImagesHook().after_train(runner)
        LeftOutImagesHook().after_test(runner)
    assert [record.getMessage() for record in caplog.records] == [
        'Damaged images left out of the training set: 2\n  a.png\n  b.png',
        'Damaged images left out of the test set: 1\n  c.png',
    ]
