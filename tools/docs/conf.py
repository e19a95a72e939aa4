"Sphinx's settings for the book. `tools/book.py html` adds title, author and copyright."
import re

from pygments.formatters import HtmlFormatter
from sphinx.highlighting import PygmentsBridge


class HangingLines(HtmlFormatter):
    "Every line of code is a block that knows its indentation, so that the rest of a long one hangs below it."

    def wrap(self, source):
        return super().wrap(map(self.block, source))

    def block(self, part):
        is_code, line = part
        if not is_code:
            return part
        text = re.sub('<[^>]+>', '', line)
        indent = len(text) - len(text.lstrip(' '))
        return is_code, f'<span class="line" style="--indent: {indent}ch">{line}</span>'


PygmentsBridge.html_formatter = HangingLines

html_theme = 'sphinx_book_theme'
html_theme_options = {'show_toc_level': 2, 'use_download_button': False, 'navbar_persistent': []}
html_static_path, html_css_files = ['.'], ['book.css']
html_show_sourcelink = html_copy_source = False
extensions = ['myst_nb', 'sphinx-mathjax-offline']
nb_execution_mode, nb_merge_streams, nb_output_stderr = 'off', True, 'remove'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_heading_anchors = 3
suppress_warnings = ['mystnb.unknown_mime_type']
