# The paper's four ImageNet teachers, with mmpretrain's weights.
_zoo = 'https://download.openmmlab.com/mmclassification/v0'

teachers = [
    dict(
        name='resnet50',
        cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py',
        checkpoint=f'{_zoo}/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth',
    ),
    dict(
        name='resnet101',
        cfg_path='mmpretrain::resnet/resnet101_8xb32_in1k.py',
        checkpoint=f'{_zoo}/resnet/resnet101_8xb32_in1k_20210831-539c63f8.pth',
    ),
    dict(
        name='wide_resnet50',
        cfg_path='mmpretrain::wrn/wide-resnet50_8xb32_in1k.py',
        checkpoint=f'{_zoo}/wrn/wide-resnet50_3rdparty_8xb32_in1k_20220304-66678344.pth',
    ),
    dict(
        name='resnext50',
        cfg_path='mmpretrain::resnext/resnext50-32x4d_8xb32_in1k.py',
        checkpoint=f'{_zoo}/resnext/resnext50_32x4d_b32x8_imagenet_20210429-56066e27.pth',
    ),
]
