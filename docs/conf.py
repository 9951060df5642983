"""The site of the documentation: `make docs` builds it into build/docs, and executes the tutorials."""

import os
import sys
from pathlib import Path

import jaxnas

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

# Tutorials wait for compilers and not for what they made.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

project = "jaxnas"
author = "The jaxnas authors"
copyright = author
version = release = jaxnas.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "plain_docstrings",
]
exclude_patterns = ["_ext", "_templates", "leaderboard"]
templates_path = ["_templates"]
default_role = "code"

html_theme = "furo"
html_title = "jaxnas"
html_copy_source = False

# Plain Markdown, so that the pages can be read without the site; dollars are dollars, and links to headings work.
myst_enable_extensions = ["deflist", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4

# Tutorials run in a folder of their own, which is gone afterwards. What they print is kept until their code changes.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Types of signatures are names of other libraries, or short names of ours, which no page has under that name.
nitpick_ignore_regex = [("py:.*", ".*")]
# A word such as `prune` in a docstring may be the name of several things; then it leads to one of them.
suppress_warnings = ["ref.python"]
