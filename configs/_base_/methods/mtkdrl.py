# MTKD-RL as published (Yang et al., AAAI 2025): one policy network per teacher; the
# action is the mean of policy, confidence and divergence; the reward is the
# teacher's closeness to the student; policy gradient.
weighting = dict(
    type='MTKDRL',
    agent=dict(type='PerTeacherAgent'),
    parts=['agent', 'confidence', 'divergence'],
)
weighting_hooks = dict(
    agent=dict(
        type='mtkdrl_mm.AgentHook',
        algorithm=dict(type='PolicyGradient', entropy_weight=0.0),
        reward=dict(type='ClosenessReward'),
        advantage=dict(type='MinMaxAdvantage'),
    )
)
