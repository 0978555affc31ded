"""How Sphinx builds the documentation: `./dev docs`."""

import inspect
import os

# The pure classes are documented; the extension's docstrings are generated from them.
os.environ["NOGIL_SYNC_BACKEND"] = "threading"

from sphinx.util.inspect import stringify_signature

import nogil_sync

project = "nogil_sync"
author = "nogil_sync contributors"
project_copyright = author
html_title = project
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
]
# Warnings are errors: so are a page that nothing links to, and a link that leads nowhere.
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"
highlight_language = "python"
html_theme = "furo"
html_static_path = []
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "special-members": "__enter__, __exit__, __iter__"}
python_use_unqualified_type_names = True
add_module_names = False
nitpicky = False
# ./dev docs --links: tools/links.py judges what is found.
linkcheck_ignore = [r"_images/"]  # a picture in full size; the browser test opens it
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_rate_limit_timeout = 60
version = release = nogil_sync.__version__ if hasattr(nogil_sync, "__version__") else ""


def initializer_signature(_app, what, _name, obj, _options, signature, returns):
    """Show the parameters of `__init__`: the `__new__` of our classes takes any."""
    if what != "class" or obj.__init__ is object.__init__:
        return signature, returns
    whole = inspect.signature(obj.__init__)
    _self, *rest = whole.parameters.values()
    shown = whole.replace(parameters=rest, return_annotation=inspect.Signature.empty)
    return stringify_signature(shown, unqualified_typehints=True), returns


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", initializer_signature)
