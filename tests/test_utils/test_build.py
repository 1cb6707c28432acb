# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of components from configs."""

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope, Registry

from mtkdrl_mm.models import DistillationLoss, JointAgent, KLDivergence
from mtkdrl_mm.registry import MODELS, TASK_UTILS
from mtkdrl_mm.rl import DDPG, PPO, Advantage, Algorithm, MinMaxAdvantage, Reward
from mtkdrl_mm.utils import InputError, build_component, check_component


class Animal:
    pass


class Dog(Animal):
    def __init__(self, name, age=1, owner=None):
        if age < 0:
            raise ValueError('too young')
        self.name, self.age, self.owner = name, age, owner


class Cat(Animal):
    def __init__(self, **kwargs):
        self.kwargs = kwargs


class Fish(Animal):
    pass


class Stone:
    pass


@pytest.fixture
def zoo():
    registry = Registry('zoo')
    for cls in (Dog, Cat, Fish, Stone):
        registry.register_module(module=cls)
    return registry


@pytest.mark.parametrize('cfg', [dict(type='Dog', name='Rex'), dict(type=Dog, name='Rex')])
@pytest.mark.parametrize('wrap', [dict, ConfigDict])
def test_dicts_with_a_type(zoo, cfg, wrap):
    dog = build_component(zoo, wrap(cfg), Animal, 'pet', age=3)
    assert (type(dog), dog.name, dog.age) == (Dog, 'Rex', 3)


def test_the_config_beats_what_the_caller_supplies(zoo):
    dog = build_component(zoo, dict(type='Dog', name='Rex', age=5), Animal, 'pet', age=3)
    assert dog.age == 5


def test_an_argument_of_the_component_that_is_replaced(zoo):
    """mmengine merges a config with its base, whatever the types are."""
    with pytest.raises(InputError) as error:
        build_component(zoo, dict(type='Fish', owner='Ann'), Animal, 'pet')
    assert str(error.value).endswith(
        'It is an argument of Dog: where a base config has that one, put `_delete_=True` beside '
        'the new `type`.'
    )
    with pytest.raises(InputError) as error:
        build_component(zoo, dict(type='Fish', colour='red'), Animal, 'pet')
    assert '_delete_' not in str(error.value)


def test_supplied_arguments_go_where_they_are_taken(zoo):
    dog = build_component(zoo, dict(type='Dog', name='Rex'), Animal, 'pet', colour='red')
    assert not hasattr(dog, 'colour')
    assert isinstance(build_component(zoo, 'Fish', Animal, 'pet', colour='red'), Fish)
    assert build_component(zoo, 'Cat', Animal, 'pet', colour='red').kwargs == dict(colour='red')


def test_names_and_instances(zoo):
    assert isinstance(build_component(zoo, 'Cat', Animal, 'pet'), Cat)
    cat = Cat()
    assert build_component(zoo, cat, Animal, 'pet') is cat


def test_the_config_is_not_changed(zoo):
    cfg = dict(type='Dog', name='Rex')
    build_component(zoo, cfg, Animal, 'pet')
    assert cfg == dict(type='Dog', name='Rex')


def test_own_names_need_no_scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loss = build_component(MODELS, 'KLDivergence', DistillationLoss, 'logit loss')
        assert isinstance(loss, KLDivergence)
    loss = build_component(MODELS, 'mtkdrl_mm.KLDivergence', DistillationLoss, 'logit loss')
    assert isinstance(loss, KLDivergence)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        ('Dgo', 'Unknown pet "Dgo". Did you mean "Dog".*Known: "Cat", "Dog", "Fish"'),
        (dict(type='Stone'), 'Unknown pet "Stone".*Known: "Cat", "Dog", "Fish"'),
        (dict(type=Stone), 'Unknown pet "Stone"'),
        (dict(name='Rex'), 'pet must be a dict with a `type`'),
        (3, 'pet must be a dict with a `type`, but is 3'),
        (dict(type='Dog', nmae='Rex'), 'pet "Dog" takes no argument "nmae". Did you mean "name"'),
        (dict(type='Fish', age=3), 'pet "Fish" takes no argument "age"'),
        (dict(type='Dog'), 'pet "Dog".*missing.*\'name\''),
        (dict(type='Dog', name='Rex', age=-1), 'pet "Dog": too young'),
    ],
)
def test_bad_configs(zoo, cfg, message):
    with pytest.raises(InputError, match=message):
        build_component(zoo, cfg, Animal, 'pet')


def test_supplied_arguments_are_not_offered_as_the_users(zoo):
    with pytest.raises(InputError) as error:
        build_component(zoo, dict(type='Dog', agee=2), Animal, 'pet', owner='me')
    assert '"age"' in str(error.value) and '"owner"' not in str(error.value)


@pytest.mark.parametrize(
    ('name', 'base', 'role', 'near'),
    [
        ('ClosnessReward', Reward, 'reward', 'ClosenessReward'),
        ('MinMaxAdvantag', Advantage, 'advantage', 'MinMaxAdvantage'),
    ],
)
def test_rl_components_are_registered(name, base, role, near):
    with pytest.raises(InputError, match=f'Unknown {role} "{name}". Did you mean "{near}"'):
        build_component(TASK_UTILS, name, base, role)
    assert isinstance(build_component(TASK_UTILS, near, base, role), base)


def test_agent_and_advantage_reach_the_algorithm():
    agent, advantage = JointAgent([2, 3]), MinMaxAdvantage()
    cfg = dict(type='PPO', entropy_weight=0.5, clip=0.1)
    shared = dict(agent=agent, advantage=advantage, seed=3)
    algorithm = build_component(TASK_UTILS, cfg, Algorithm, 'RL algorithm', **shared)
    assert isinstance(algorithm, PPO)
    assert algorithm.agent is agent and algorithm.advantage is advantage
    assert (algorithm.entropy_weight, algorithm.clip, algorithm.seed) == (0.5, 0.1, 3)


def test_a_component_that_is_built_later_is_checked_without_building(zoo):
    assert check_component(zoo, dict(type='Dog', age=-1), Animal, 'pet') == (Dog, dict(age=-1))
    with pytest.raises(InputError, match=r'takes no argument "agee"\. Did you mean "age"'):
        check_component(zoo, dict(type='Dog', agee=1), Animal, 'pet')


def test_kwargs_are_those_of_the_base_class():
    message = 'RL algorithm "DDPG" takes no argument "critic_step". Did you mean "critic_steps"'
    with pytest.raises(InputError, match=message):
        check_component(TASK_UTILS, dict(type='DDPG', critic_step=1), Algorithm, 'RL algorithm')
    cfg = dict(type='DDPG', noise=1.0, epochs=2, tau=0.1)
    assert check_component(TASK_UTILS, cfg, Algorithm, 'RL algorithm')[0] is DDPG
