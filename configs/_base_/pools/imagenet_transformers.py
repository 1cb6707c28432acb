# The paper's three transformers: CaiT-S24 with its authors' weights, as timm
# reads them, DeiT-S and DeiT-B with mmpretrain's.
_zoo = 'https://download.openmmlab.com/mmclassification/v0/deit'

teachers = [
    dict(
        name='cait_s24',
        type='ImageClassifier',
        backbone=dict(type='mtkdrl_mm.TimmFeatures', model_name='cait_s24_224'),
        head=dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=384),
        checkpoint='https://dl.fbaipublicfiles.com/deit/S24_224.pth',
    ),
    dict(
        name='deit_small',
        cfg_path='mmpretrain::deit/deit-small_4xb256_in1k.py',
        checkpoint=f'{_zoo}/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth',
    ),
    dict(
        name='deit_base',
        cfg_path='mmpretrain::deit/deit-base_16xb64_in1k.py',
        checkpoint=f'{_zoo}/deit-base_pt-16xb64_in1k_20220216-db63c16c.pth',
    ),
]
