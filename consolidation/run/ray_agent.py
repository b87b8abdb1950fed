"""A program: the agent that Ray starts beside its node, without the modules that it would load.

It only lives, and ends with its node.   Arguments: the path of Ray's own program, and what that is
given. See `ray_parts`.
"""

import runpy
import sys
from importlib import import_module

if __name__ == "__main__":
    import_module("ray.dashboard.modules").__path__ = []
    sys.argv = [*sys.argv[1:], "--minimal"]
    runpy.run_path(sys.argv[0], run_name="__main__")
