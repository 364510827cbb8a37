"""What every page shares: the templates, how they are filled, and what each page shows."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

import strokect
from strokect.report import figures
from strokect.report.text import clean


def environment() -> Environment:
    """Templates of the pages; values are escaped, a missing one is an error."""
    made = Environment(
        loader=PackageLoader("strokect.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["clean"] = clean
    return made


def constants() -> dict[str, str]:
    """Version, research-use-only note, and the colours of core and penumbra."""
    return {
        "version": strokect.__version__,
        "research_use_only": strokect.RESEARCH_USE_ONLY,
        "core_rgb": f"rgb{figures.CORE_RGB}",
        "penumbra_rgb": f"rgb{figures.PENUMBRA_RGB}",
    }
