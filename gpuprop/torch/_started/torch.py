"""What `import torch` finds in a process that a program started."""

from gpuprop.torch.__main__ import install

install()  # this module's place in sys.modules is taken, too
