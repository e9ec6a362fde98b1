"""Packages that the study needs, and the models alone do not."""

import contextlib
from collections.abc import Iterator

# Where a package is installed by another name than it is imported by.
_INSTALLED_AS = {"PIL": "pillow", "freud": "freud-analysis", "sklearn": "scikit-learn"}


@contextlib.contextmanager
def packages() -> Iterator[None]:
    """Say what to install where one of the imports in this block fails.

    Raises:
        ModuleNotFoundError: a package is missing; the message has the command.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"{package} is not installed, which the study needs and the models alone do not: run "
            f"`pip install {_INSTALLED_AS.get(package, package)}`, or `pip install -e '.[study]'` "
            "in the clone for all that the study needs",
            name=error.name,
        ) from error
