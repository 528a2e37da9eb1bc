"""Write every vector file anew: `python -m tests.vectors`."""

from tests.vectors import BUILDERS, FOLDER, text_of

for name in BUILDERS:
    (FOLDER / f"{name}.json").write_text(text_of(name))
