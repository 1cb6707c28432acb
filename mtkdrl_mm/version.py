"""Version of the package. setup.py executes this file without importing the package."""

import re

__version__ = '0.2.0.dev0'


def parse_version_info(version: str) -> tuple[int | str, ...]:
    """Split a version into comparable parts.

    Args:
        version: For example '1.3.0' or '2.0.0rc1'.

    Returns:
        (1, 3, 0) or (2, 0, 0, 'rc1').
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)*)\.?((?:a|b|rc|dev|post)\d+)?(?:\+.*)?', version)
    if match is None:
        raise ValueError(f'{version!r} is not a version such as 1.3.0 or 2.0.0rc1')
    numbers, suffix = match.groups()
    release = tuple(int(part) for part in numbers.split('.'))
    return (*release, suffix) if suffix else release


version_info = parse_version_info(__version__)
