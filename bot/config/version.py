"""Report the version of Inhouse."""

from importlib import metadata


def version() -> str:
    """The version of the installed distribution, or 'from a checkout'."""
    try:
        return metadata.version("inhouse")
    except metadata.PackageNotFoundError:
        return "from a checkout"
