# The variant of this project: one policy network sees all teachers; its policy is
# the action; the reward is how much a teacher's gradient lowers the student's loss.
weighting = dict(type='MTKDRL', agent=dict(type='JointAgent'), parts=['agent'])
weighting_hooks = dict(
    agent=dict(
        type='mtkdrl_mm.AgentHook',
        algorithm=dict(type='PolicyGradient', entropy_weight=0.01),
        reward=dict(type='ImprovementReward'),
        advantage=dict(type='MinMaxAdvantage'),
    )
)
