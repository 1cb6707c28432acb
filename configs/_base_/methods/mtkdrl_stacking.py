# A variant of this project: one policy network sees what all teachers say, and neither the
# label nor the student; it maximises the probability of the labels under the weighted teachers.
weighting = dict(
    type='MTKDRL',
    agent=dict(type='JointAgent'),
    parts=['agent'],
    state=dict(gap=False, embedding=False, cross_entropy=False),
)
weighting_hooks = dict(
    agent=dict(
        type='mtkdrl_mm.AgentHook',
        algorithm=dict(
            type='MixtureLikelihood',
            epochs=4,
            optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-3),
        ),
        reward=dict(type='LabelProbabilityReward'),
    )
)
