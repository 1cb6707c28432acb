# What the authors' released code does: one network sees all teachers' raw states;
# the fused weights are the policy; one reward per image, standardised over the
# batch, weighs a binary cross entropy that raises every teacher's weight.
weighting = dict(
    type='MTKDRL',
    agent=dict(type='JointAgent', standardize=False),
    parts=['agent', 'confidence', 'divergence'],
    policy='fused',
)
weighting_hooks = dict(
    agent=dict(
        type='mtkdrl_mm.AgentHook',
        algorithm=dict(type='WeightedBCE'),
        reward=dict(type='StudentLossReward'),
        advantage=dict(type='BatchZScoreAdvantage'),
    )
)
