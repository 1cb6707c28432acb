# MTKD-RL + ND: norm and direction of the embedding on top. First write the
# class centres:
#   python tools/analysis_tools/compute_class_centers.py \
#       configs/mtkdrl/r34_imagenet.py data/imagenet_centers.pth
_base_ = './r34_imagenet.py'

model = dict(
    extra_losses=[dict(type='NormDirection', centers='data/imagenet_centers.pth', loss_weight=1.0)]
)
