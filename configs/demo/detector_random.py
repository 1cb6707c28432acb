# The detector, its backbone untrained.
_base_ = './_base_/detector.py'
