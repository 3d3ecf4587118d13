"""Importing this makes every shape, dtype and type in the annotations of the maths and of scoring an executed check.

jaxtyping's hook rewrites modules as they are imported, so this must come before the first import of the project.
"""

from jaxtyping import install_import_hook

CHECKED = ("a2tgpo.method", "a2tgpo.scoring", "a2tgpo.oracle")
"""Packages, with all modules below them."""

# is_pep484_tower: an int is a float, as type checkers have it and the command line writes: `model.clipper.beta=0`
install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
