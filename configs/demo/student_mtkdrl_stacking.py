# The student distilled by mtkdrl_stacking; the agent learns from held-out images, and
# discounts what teachers have learned of the student's images by heart. What their
# features are worth is judged by linear probes on the same images.
_base_ = ['../_base_/recipes/digits.py', '../_base_/methods/mtkdrl_stacking.py']

model = dict(weighting=dict(**_base_.weighting, feature_weights='probes'))
default_hooks = dict(
    agent=dict(**_base_.weighting_hooks.agent, experience='held_out', discount_memorised=True)
)
