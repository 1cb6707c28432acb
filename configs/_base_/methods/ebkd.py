# EB-KD: teachers with a lower entropy have a higher weight (Kwon et al., "Adaptive
# Knowledge Distillation Based on Entropy", ICASSP 2020).
weighting = dict(type='EBKD')
weighting_hooks = dict()
