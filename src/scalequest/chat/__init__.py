"""Chat formats: the token ids of every prompt and target, and the chat templates that render the same ids.

`formats.py` reads a format, binds it to a tokenizer and encodes texts; `jinja.py` writes a format as a chat
template, and drafts a format from one. `families/` holds a YAML file per family.
"""

from scalequest.chat.formats import (
    TEMPLATES,
    BoundFormat,
    ChatFormat,
    FormatError,
    QuestionMarkup,
    bind,
    load_format,
    load_tokenizer,
    prepare_tokenizer_and_model,
    split_thoughts,
    without_thoughts,
)
from scalequest.chat.jinja import bare_template, generator_template, solver_template

__all__ = [
    "TEMPLATES",
    "BoundFormat",
    "ChatFormat",
    "FormatError",
    "QuestionMarkup",
    "bare_template",
    "bind",
    "generator_template",
    "load_format",
    "load_tokenizer",
    "prepare_tokenizer_and_model",
    "solver_template",
    "split_thoughts",
    "without_thoughts",
]
