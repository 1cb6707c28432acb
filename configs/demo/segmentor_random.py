# The segmentor, its backbone untrained.
_base_ = './_base_/segmentor.py'
