# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Faulty data and settings, through the tools."""

import json
import os

import pytest

from .conftest import Workshop

pytestmark = pytest.mark.slow


def last_sentence(done) -> str:
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr[-2000:]
    return done.stderr.strip().splitlines()[-1]


def test_damaged_image_in_a_data_worker_and_left_out(workshop: Workshop):
    config = workshop.config(workers=1)
    damaged = [workshop.data / 'train' / 'class_1' / '3.png', workshop.data / 'val/class_2/1.png']
    for path in damaged:
        path.write_bytes(path.read_bytes()[:50])
    flags = ['--work-dir', str(workshop.folder / 'run'), '--cfg-options', 'train_cfg.max_epochs=1']
    flags.append('train_cfg.val_interval=1')
    sentence = last_sentence(workshop.train(config, *flags))
    assert sentence in {
        f'Error: The image "{path}" cannot be read: it is cut off, damaged, or no image. Replace '
        'it, or leave out all damaged images: --cfg-options skip_damaged_images=True'
        for path in damaged
    }
    done = workshop.train(config, *flags, 'skip_damaged_images=True')
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Teachers' accuracy on 15 validation images" in done.stdout
    assert f'left out of the training set: 1\n  {damaged[0]}' in done.stdout + done.stderr
    assert f'left out of the validation set: 1\n  {damaged[1]}' in done.stdout + done.stderr


def test_a_test_set_that_lacks_a_class(workshop: Workshop):
    """The accuracy is that of the same images beside the others."""
    config = workshop.config()
    work_dir = workshop.folder / 'run'
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'val_evaluator.topk=[1,5]']
    done = workshop.train(config, '--work-dir', str(work_dir), *options)
    assert done.returncode == 0, done.stderr[-2000:]

    def outcome(*flags) -> dict[str, float]:
        out = workshop.folder / 'metrics.json'
        command = ['tools/test.py', config, str(work_dir / 'epoch_1.pth')]
        command += ['--work-dir', str(work_dir), '--out', str(out), '--out-item', 'metrics']
        # Per class: hits among its four images.
        command += ['--cfg-options', 'test_evaluator.type=SingleLabelMetric']
        command += ['test_evaluator.items=[recall,support]', 'test_evaluator.average=None']
        done = workshop.tool(*command, 'test_evaluator._delete_=True', *flags)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(out.read_text())

    whole = outcome()['single-label/recall_classwise']
    # Without the training data too: the checkpoint knows the classes.
    (workshop.data / 'train').rename(workshop.data / 'train_elsewhere')
    for image in (workshop.data / 'val' / 'class_1').iterdir():
        image.unlink()
    os.rmdir(workshop.data / 'val' / 'class_1')
    lacking = outcome()
    assert lacking['single-label/support_classwise'] == [4, 0, 4, 4]
    assert [lacking['single-label/recall_classwise'][i] for i in (0, 2, 3)] == [
        whole[i] for i in (0, 2, 3)
    ]
    assert 'accuracy/top5' not in done.stdout and 'val_evaluator: top-5 of only 4' in done.stdout

    (workshop.data / 'val' / 'class_2').rename(workshop.data / 'val' / 'Class_2')
    done = workshop.tool('tools/test.py', config, str(work_dir / 'epoch_1.pth'))
    assert 'holds the folders Class_2, which are none of the 4 classes' in last_sentence(done)


def test_test_time_augmentation(workshop: Workshop):
    """On images that are their own mirror images it changes nothing."""
    from PIL import Image, ImageOps

    config = workshop.config()
    work_dir = workshop.folder / 'run'
    for path in (workshop.data / 'val').glob('*/*.png'):
        with Image.open(path) as image:
            left = image.crop((0, 0, 8, 16))
        image = Image.new('RGB', (16, 16))
        image.paste(left, (0, 0))
        image.paste(ImageOps.mirror(left), (8, 0))
        image.save(path)
    options = ['--cfg-options', 'train_cfg.max_epochs=1']
    done = workshop.train(config, '--work-dir', str(work_dir), *options)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = []
    for flags in ([], ['--tta']):
        out = workshop.folder / 'pred.pkl'
        command = ['tools/test.py', config, str(work_dir / 'epoch_1.pth')]
        done = workshop.tool(*command, '--work-dir', str(work_dir), '--out', str(out), *flags)
        assert done.returncode == 0, done.stderr[-2000:]
        import mmengine

        scores.append([sample['pred_score'].tolist() for sample in mmengine.load(out)])
    assert len(scores[0]) == 16
    for plain, augmented in zip(*scores):
        assert augmented == pytest.approx(plain, abs=1e-5)
