"""python -m zero.tracking prints the glossary of metrics as a Markdown table."""

from zero.tracking.glossary import markdown

print(markdown())
