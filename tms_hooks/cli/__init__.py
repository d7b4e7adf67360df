"""`tms`: the command line. Thin: it parses, calls the library and prints tables.

Nothing here is imported before a command needs it, so that `tms --help` answers at once. What a person reads while
waiting goes to standard error; results go to standard output.
"""

from tms_hooks.cli.commands import app as app
from tms_hooks.cli.commands import main as main
