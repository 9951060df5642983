"""Controllers: learned policies that make architectures, and how they learn from rewards."""

from jaxnas.controllers.lstm import Controller, Decisions, lstm_controller
from jaxnas.controllers.policy_gradient import (
    PolicyGradient,
    PolicyInfo,
    PolicyState,
    adam,
    ppo_policy,
    reinforce_policy,
)

__all__ = [
    "Controller",
    "Decisions",
    "PolicyGradient",
    "PolicyInfo",
    "PolicyState",
    "adam",
    "lstm_controller",
    "ppo_policy",
    "reinforce_policy",
]
