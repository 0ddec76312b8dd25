"""How Sphinx builds these pages: scripts/docs."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile

# Airflow makes its home when the reference imports it; without one of our own that would be the developer's.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

project = "airflow-provider-segstats"
author = "The airflow-provider-segstats authors"
version = release = importlib.metadata.version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the signatures have them
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
# Warnings are errors, so what other projects' inventories would resolve is left unresolved, not half resolved:
# the build needs no network.
nitpicky = False

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path: list[str] = []
html_show_copyright = False
