"""The packages of the wheel: the library, and the programs of experiments/ as jaxnas.programs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxnas", "jaxnas.*"]), "jaxnas.programs"],
    package_dir={"jaxnas.programs": "experiments"},
)
